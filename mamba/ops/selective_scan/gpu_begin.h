// The beginning of gpu_forward.h and gpu_local.h: which channels and positions a thread has, and what it keeps of them.
constexpr int kOwn = kSteps / kLanes;
constexpr int kQuads = kM / 4;
constexpr int kRow = kLanes * kQuads;  // float4 of a row of B
constexpr int kPadded = kLanes * kM;
constexpr int kFill = kSegment * kPadded / kThreads;  // numbers of a row of B, and of C, that a thread fetches
constexpr float kLog2e = 1.44269504f;
const float kBehind = kSoftplus ? -1e38f : 0.0f;  // in place of delta behind the end: dt is 0
const bool kMasked = kHasSpans || !kSoftplus;

const int length = delta_shape[1];
const int channels = delta_shape[2];
const int states = A_shape[1];
const int thread = MAMBA_THREAD;
const int lane = thread % 32;
const int slice = thread % kLanes;
const int d = (MAMBA_GROUP_X * (kThreads / kLanes) + thread / kLanes) * kEach;
const int c = d < channels ? d : (channels - 1) / kEach * kEach;
const int real = channels - d < kEach ? channels - d : kEach;  // of the lane's channels, those that are there
const int near = channels - c;                                 // to the first one's right, itself included
const int b = MAMBA_GROUP_Y;
const int segments = (length + kSegment - 1) / kSegment;
const int chunks = MAMBA_GROUPS_Z + (kIsLocal ? 1 : 0);
const int per_chunk = (segments + chunks - 1) / chunks;
const int chunk = MAMBA_GROUP_Z + (kIsLocal && kReverse ? 1 : 0);
const int from = chunk * per_chunk * kSegment;
const int to = length < from + per_chunk * kSegment ? length : from + per_chunk * kSegment;
const int begin = kHasSpans ? mamba_clamped(int(spans[2 * b]), 0, length) : 0;
const int end = kHasSpans ? mamba_clamped(int(spans[2 * b + 1]), begin, length) : length;

// A channel's numbers lie side by side, so a lane's own of A, and of states outside cells, are read and written by
// fours: one by one all lanes would want another line of memory each time.
const bool A_lines = states == kPadded && MambaNumbers<float, 4>::whole(A, states);
float A2[kEach][kM];
float h[kEach][kM];
float bias[kEach];
MAMBA_UNROLL
for (int e = 0; e < kEach; ++e) {
  const int ce = c + e < channels ? c + e : channels - 1;
  MAMBA_UNROLL
  for (int q = 0; q < kQuads; ++q) {
    const int n = slice * kM + 4 * q;
    MambaNumbers<float, 4> rates;
    mamba_fetch(rates, A + (int64_t(ce) * states + n), 1, states - n, A_lines);
    MAMBA_UNROLL
    for (int j = 0; j < 4; ++j) {
      A2[e][4 * q + j] = kLog2e * rates.get(j);
      h[e][4 * q + j] = 0.0f;
    }
  }
  bias[e] = kHasBias ? float(delta_bias[ce]) : 0.0f;
}

// Where the lane's states lie in a cell, the states of kBlock channels before some segment: (N, kBlock). A sequence has
// the cells of one segment after another, or with kSparse of the first ones of its chunks only.
const int64_t cell = int64_t(states) * kBlock;
const int64_t row_of_cells = (channels + kBlock - 1) / kBlock * cell;
const int64_t in_cells = d / kBlock * cell + slice * kM * kBlock + d % kBlock;
const int cells = kSparse ? chunks : segments;
const int cells_apart = kSparse ? 1 : per_chunk;  // those of neighbouring chunks
