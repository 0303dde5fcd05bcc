// GPU kernel, in the dialect of ops/gpu: the sums of what groups and chunks leave of gradients where gpu_backward.h
// says, in one launch: `sum_A` (D, N), `sum_D` and `sum_bias` (D), `sum_BC` (B, L, 2 N) in T. One sum to a thread.
// `ends`: `last` or `spare` there.
constexpr int kLoads = 12;  // in flight
const int kInCell = kBlock / 2 < kSegment ? kBlock / 2 : kSegment;
const int batch = kept_shape[0];
const int length = u_shape[1];
const int segments = kept_shape[1];
const int blocks = kept_shape[2];
const int states = kept_shape[3];
const int channels = u_shape[2];
const int chunks = ends_shape[1];
const int per_chunk = (segments + chunks - 1) / chunks;
const int64_t cell = int64_t(states) * kBlock;
const int64_t row_of_cells = blocks * cell;
const int of_A = blocks * states * kBlock;
const int groups_A = (of_A + kThreads - 1) / kThreads;
const int groups_D = (2 * channels + kThreads - 1) / kThreads;
const int group = MAMBA_GROUP_X;
const bool is_A = group < groups_A;
const bool is_D = !is_A && group < groups_A + groups_D;
const int64_t at = int64_t(is_A   ? group
                           : is_D ? group - groups_A
                                  : group - groups_A - groups_D) *
                       kThreads +
                   MAMBA_THREAD;
// A sum's numbers lie `apart`, `count` of them, or as many for each sequence.
auto from = kept + 0;
int64_t apart = 0;
int64_t sequences_apart = 0;
int count = 0;
int sequences = 1;
if (is_A) {
  from = kept + at;
  apart = per_chunk * row_of_cells;
  sequences_apart = segments * row_of_cells;
  count = at < of_A ? chunks : 0;
  sequences = batch;
} else if (is_D) {
  apart = 2 * channels;
  count = at < 2 * channels ? batch * chunks : 0;
} else {
  const int of_row = 2 * states;
  const int64_t position = at / of_row;  // of all sequences'
  const int b = int(position / length);
  const int t = int(position % length);
  const int s = t / kSegment;
  const int row = t % kSegment;
  const int64_t column = at % of_row;
  const int64_t rest = (kSegment - kInCell) * of_row;
  if (kInCell < kSegment && row >= kInCell) {
    from = more + ((int64_t(b) * segments + s) * blocks * rest + (row - kInCell) * of_row + column);
    apart = rest;
  } else {
    const bool is_end = s + 1 == segments || (s + 1) % per_chunk == 0;
    const int64_t in_cell = row * of_row + column;
    from = is_end ? ends + ((int64_t(b) * chunks + s / per_chunk) * row_of_cells + in_cell)
                  : kept + ((int64_t(b) * segments + s + 1) * row_of_cells + in_cell);
    apart = cell;
  }
  count = b < batch ? blocks : 0;
}
float sum = 0.0f;
MAMBA_NO_UNROLL
for (int sequence = 0; sequence < sequences; ++sequence) {
  MAMBA_NO_UNROLL
  for (int first = 0; first < count; first += kLoads) {
    float value[kLoads];
    MAMBA_UNROLL
    for (int i = 0; i < kLoads; ++i) {
      value[i] = 0.0f;
      if (first + i < count) {
        // Metal has small arrays in another address space, so there is no one pointer to all.
        value[i] = is_D ? float(part_D[at + (first + i) * apart]) : float(from[(first + i) * apart]);
      }
    }
    MAMBA_UNROLL
    for (int i = 0; i < kLoads; ++i) {
      sum += value[i];
    }
  }
  from += sequences_apart;
}
if (count > 0) {
  if (is_A) {
    const int64_t n = at / kBlock % states;
    const int64_t d = at / cell * kBlock + at % kBlock;
    if (d < channels) {
      sum_A[d * states + n] = sum;
    }
  } else if (!is_D) {
    sum_BC[at] = T(sum);
  } else if (at < channels) {
    sum_D[at] = OfD(sum);
  } else {
    sum_bias[at - channels] = OfBias(sum);
  }
}
