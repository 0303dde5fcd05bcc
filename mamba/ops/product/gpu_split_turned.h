// GPU kernel, in the dialect of ops/gpu: gpu_split.h of the transpose of x (rows, columns), which it reads and writes
// in lines: (columns, kParts rows), or of each kPiece rows for themselves, (rows / kPiece, columns, kParts kPiece).
MAMBA_SHARED(float, tile, 32 * 33);
const int rows = x_shape[0];
const int columns = x_shape[1];
const int lane = MAMBA_THREAD % 32;
const int warp = MAMBA_THREAD / 32;
const int first_column = MAMBA_GROUP_X * 32;
const int first_row = MAMBA_GROUP_Y * 32;
MAMBA_UNROLL
for (int i = 0; i < 32; i += 8) {
  const int row = first_row + warp + i;
  const int column = first_column + lane;
  const bool inside = row < rows && column < columns;
  tile[(warp + i) * 33 + lane] = inside ? float(x[row * x_strides[0] + column * x_strides[1]]) : 0.0f;
}
MAMBA_BARRIER();
const int row = first_row + lane;
const int length = kPiece > 0 ? kPiece : rows;
const int piece = kPiece > 0 ? row / length : 0;
MAMBA_UNROLL
for (int i = 0; i < 32; i += 8) {
  const int column = first_column + warp + i;
  if (row < rows && column < columns) {
    const MambaParts v = mamba_parts(tile[lane * 33 + warp + i]);
    const auto to = parts + ((int64_t(piece) * columns + column) * kParts * length + (row - piece * length));
    MAMBA_UNROLL
    for (int part = 0; part < kParts; ++part) {
      to[int64_t(part) * length] = part == kLow ? v.low : (part == kParts - 1 ? v.last : v.high);
    }
  }
}
