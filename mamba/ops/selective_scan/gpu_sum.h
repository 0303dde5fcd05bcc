// GPU kernel, in the dialect of ops/gpu: the sums of what groups and chunks leave of gradients (gpu_backward.h), in one
// launch. `part_A` (R, D, N) to `sum_A` (D, N); `part_D` (R, 2, D) to `sum_D` and `sum_bias` (D); `part_BC` (B, groups,
// L, 2 N) to `sum_BC` (B, L, 2 N) in T. One sum to a thread.
constexpr int kLoads = 12;  // in flight
const int rows = part_A_shape[0];
const int channels = part_A_shape[1];
const int of_A = channels * part_A_shape[2];
const int groups_A = (of_A + kThreads - 1) / kThreads;
const int groups_D = (2 * channels + kThreads - 1) / kThreads;
const int group = MAMBA_GROUP_X;
// Each sum's first number, how far they are apart and how many there are.
int64_t from = 0;
int64_t apart = 0;
int count = 0;
const bool is_A = group < groups_A;
const bool is_D = !is_A && group < groups_A + groups_D;
const int64_t row = int64_t(part_BC_shape[2]) * part_BC_shape[3];
int64_t at = int64_t(is_A ? group : is_D ? group - groups_A : group - groups_A - groups_D) * kThreads + MAMBA_THREAD;
if (is_A) {
  from = at;
  apart = of_A;
  count = at < of_A ? rows : 0;
} else if (is_D) {
  from = at;
  apart = 2 * channels;
  count = at < 2 * channels ? rows : 0;
} else {
  const int64_t b = at / row;
  from = b * part_BC_shape[1] * row + at % row;
  apart = row;
  count = b < part_BC_shape[0] ? part_BC_shape[1] : 0;
}
float sum = 0.0f;
MAMBA_NO_UNROLL
for (int first = 0; first < count; first += kLoads) {
  float value[kLoads];
  MAMBA_UNROLL
  for (int i = 0; i < kLoads; ++i) {
    const int64_t here = from + (first + i) * apart;
    value[i] = 0.0f;
    if (first + i < count) {
      // Metal has small arrays in another address space, so there is no one pointer to all.
      value[i] = is_A ? float(part_A[here]) : is_D ? float(part_D[here]) : float(part_BC[here]);
    }
  }
  MAMBA_UNROLL
  for (int i = 0; i < kLoads; ++i) {
    sum += value[i];
  }
}
if (count > 0) {
  if (is_A) {
    sum_A[at] = sum;
  } else if (!is_D) {
    sum_BC[at] = T(sum);
  } else if (at < channels) {
    sum_D[at] = OfD(sum);
  } else {
    sum_bias[at - channels] = OfBias(sum);
  }
}
