// GPU kernel, in the dialect of ops/gpu: x (rows, columns), of any strides, as numbers of 11 bits. kParts of them side
// by side, by rows or (kBlocks) for the whole matrix, or of each kPiece columns for themselves, those of one piece
// below those of the one before, (columns / kPiece rows, kParts kPiece): part kLow has what the others, the upper 11
// bits, leave.
const int columns = x_shape[1];
const int64_t total = int64_t(x_shape[0]) * columns;
const int64_t from = int64_t(MAMBA_GROUP_X) * (kPer * kThreads) + MAMBA_THREAD;
const int64_t apart = kBlocks ? total : int64_t(kPiece > 0 ? kPiece : columns);
MAMBA_UNROLL
for (int i = 0; i < kPer; ++i) {
  const int64_t at = from + i * kThreads;
  if (at < total) {
    const int row = kWide ? int(at / columns) : int(uint32_t(at) / uint32_t(columns));
    const int column = int(at - int64_t(row) * columns);
    const MambaParts v = mamba_parts(float(x[row * x_strides[0] + column * x_strides[1]]));
    const int piece = kPiece > 0 ? column / kPiece : 0;
    const int64_t line = kPiece > 0 ? int64_t(piece) * x_shape[0] + row : int64_t(row);
    const auto to = parts + (kBlocks ? at : line * kParts * apart + (column - piece * kPiece));
    MAMBA_UNROLL
    for (int part = 0; part < kParts; ++part) {
      to[part * apart] = part == kLow ? v.low : (part == kParts - 1 ? v.last : v.high);
    }
  }
}
