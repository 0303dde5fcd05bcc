// The beginning of gpu_backward.h: what a thread has to do with, and what it keeps.
constexpr int kOwn = kSteps / kLanes;
constexpr int kQuads = kM / 4;
constexpr int kRow = kLanes * kQuads;
constexpr int kPadded = kLanes * kM;
constexpr int kColumns = kThreads < kPadded ? kThreads : kPadded;  // threads that fill a row of B at once
constexpr int kRows = kThreads / kColumns;
constexpr int kWide = 2 * kPadded;  // a row of the gradients of B and C
// Of a tile's shares a thread sums neighbouring ones, where there are enough for all threads.
constexpr int kTogether = kSteps * kWide >= 2 * kThreads ? 2 : 1;
constexpr int kTasks = kSteps * kWide / kTogether;
constexpr int kSimds = kThreads / 32;
constexpr int kShares = kSimds * kSteps * kWide;
constexpr int kBuffers = kSegment > kSteps ? 2 : 1;                        // with two, one barrier a tile is enough
constexpr int kSpread = 2 * kM * kLanes >= 32 ? 2 * kM * kLanes / 32 : 1;  // sums that a lane ends with
// Lanes of a SIMD group's upper half keep the two halves of their states the other way round. So what is handed over
// first, of the sums over channels, lies in the same registers in both halves. Where such a half is less than a float4
// they have copies of B and C that are turned too.
constexpr int kHalf = kM / 2;
constexpr int kCopies = kM == 4 ? 2 : 1;
// Rows of shares that a cell has room for.
const int kInCell = kBlock / 2 < kSegment ? kBlock / 2 : kSegment;
constexpr float kLog2e = 1.44269504f;
constexpr float kLn2 = 0.693147181f;
MAMBA_SHARED(float4, tile_B, kCopies* kSegment* kRow);
MAMBA_SHARED(float4, tile_C, kCopies* kSegment* kRow);
// Partial sums, then the states before all tiles but the first. Of many tiles the last one's states lie where partial
// sums will, until those are made: Metal has 32 KiB for all of this.
constexpr bool kTight = kSegment / kSteps > 4;
constexpr int kStarts = kSegment / kSteps - (kTight ? 2 : 1);
MAMBA_SHARED(float2, pairs, (kBuffers * kShares + kStarts * kM * kThreads) / 2);
MAMBA_SHARED_PTR(float) work = (MAMBA_SHARED_PTR(float))pairs;
MAMBA_SHARED_PTR(float) flat_B = (MAMBA_SHARED_PTR(float))tile_B;
MAMBA_SHARED_PTR(float) flat_C = (MAMBA_SHARED_PTR(float))tile_C;

const int length = u_shape[1];
const int channels = u_shape[2];
const int states = A_shape[1];
const int thread = MAMBA_THREAD;
const int lane = thread % 32;
const int simd = thread / 32;
const int slice = thread % kLanes;
const int turn_n = lane >= 16 ? kHalf : 0;
const int low_n = slice * kM + turn_n;
const int high_n = slice * kM - turn_n;
const int blocks = (channels + kBlock - 1) / kBlock;
const int d = MAMBA_GROUP_X * kBlock + thread / kLanes;
const bool real = d < channels;
const int c = real ? d : channels - 1;
const int b = MAMBA_GROUP_Y;
const int segments = (length + kSegment - 1) / kSegment;
const int chunks = MAMBA_GROUPS_Z;
const int per_chunk = (segments + chunks - 1) / chunks;
const int chunk = MAMBA_GROUP_Z;
const int first_segment = chunk * per_chunk;
const int end_segment = segments < first_segment + per_chunk ? segments : first_segment + per_chunk;
const int begin = kHasSpans ? mamba_clamped(int(spans[2 * b]), 0, length) : 0;
const int end = kHasSpans ? mamba_clamped(int(spans[2 * b + 1]), begin, length) : length;

// Cells (gpu_begin.h) of the group's own channels, and the lane's place in them.
const int64_t cell = int64_t(states) * kBlock;
const int64_t row_of_cells = blocks * cell;
const int64_t in_cells = MAMBA_GROUP_X * cell + thread / kLanes;
const auto cells = MAMBA_WRITABLE(float, kept) + (int64_t(b) * segments * row_of_cells + MAMBA_GROUP_X * cell);
const auto spare_cell = (kChunked ? MAMBA_WRITABLE(float, last) : spare) +
                        ((int64_t(b) * chunks + chunk) * row_of_cells + MAMBA_GROUP_X * cell);
const auto more_shares = more + (int64_t(b) * segments * blocks + MAMBA_GROUP_X) * ((kSegment - kInCell) * 2 * states);

float A2[kM];
float gh[kM];
float gA[kM];
MAMBA_UNROLL
for (int i = 0; i < kM; ++i) {
  const int n = (i < kHalf ? low_n : high_n) + i;
  const bool there = real && n < states;
  A2[i] = there ? kLog2e * float(A[int64_t(c) * states + n]) : 0.0f;
  gA[i] = 0.0f;
  gh[i] = 0.0f;
  if (there && kChunked) {
    gh[i] = float(last[(int64_t(b) * chunks + chunk) * row_of_cells + in_cells + int64_t(n) * kBlock]);
  } else if (there && kHasLast) {
    gh[i] = float(last[(int64_t(b) * channels + c) * states + n]);
  }
}
const float bias = kHasBias ? float(delta_bias[c]) : 0.0f;
const float skip = kHasD ? float(D[c]) : 0.0f;
float sum_gD = 0.0f;
float sum_gbias = 0.0f;
// Each lane's own positions of a tile. What is 64 bits of an address moves on by segments, the rest of it is 32 bits
// from there: addresses cost as much as the recurrence otherwise.
const int u_step = int(u_strides[1]);
const int delta_step = int(delta_strides[1]);
const int z_step = kHasZ ? int(z_strides[1]) : 0;
const int gy_step = int(gy_strides[1]);
const int own = slice * kOwn;
const int low_q = kCopies == 1 ? low_n / 4 : slice + (lane >= 16 ? kSegment * kRow : 0);
const int high_q = high_n / 4;
const int64_t behind = int64_t(end_segment) * kSegment + own;
auto u_at = u + (b * u_strides[0] + c * u_strides[2] + behind * u_strides[1]);
auto delta_at = delta + (b * delta_strides[0] + c * delta_strides[2] + behind * delta_strides[1]);
auto z_at = z + (kHasZ ? b * z_strides[0] + c * z_strides[2] + behind * z_strides[1] : 0);
auto gy_at = gy + (b * gy_strides[0] + c * gy_strides[2] + behind * gy_strides[1]);
const int out_own = own * channels + c;
