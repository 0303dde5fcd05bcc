// GPU kernel, in the dialect of ops/gpu: the sum over groups of what gpu_backward.h leaves of the gradients of B and C:
// `part` (B, groups, L, 2 N) to `out` (B, L, 2 N) in T.
constexpr int kLoads = 8;  // in flight
const int groups = part_shape[1];
const int64_t row = int64_t(part_shape[2]) * part_shape[3];
const int64_t at = int64_t(MAMBA_GROUP_X) * kThreads + MAMBA_THREAD;
if (at < row) {
  const auto part_at = part + (int64_t(MAMBA_GROUP_Y) * groups * row + at);
  float sum = 0.0f;
  MAMBA_NO_UNROLL
  for (int from = 0; from < groups; from += kLoads) {
    float value[kLoads];
    MAMBA_UNROLL
    for (int i = 0; i < kLoads; ++i) {
      value[i] = from + i < groups ? float(part_at[(from + i) * row]) : 0.0f;
    }
    MAMBA_UNROLL
    for (int i = 0; i < kLoads; ++i) {
      sum += value[i];
    }
  }
  out[int64_t(MAMBA_GROUP_Y) * row + at] = T(sum);
}
