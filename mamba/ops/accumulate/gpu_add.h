// GPU kernel, in the dialect of ops/gpu: out = sum + value, each (count,).
const int64_t total = int64_t(sum_shape[0]);
const int64_t from = int64_t(MAMBA_GROUP_X) * kPer * kThreads + MAMBA_THREAD;
MAMBA_UNROLL
for (int i = 0; i < kPer; ++i) {
  const int64_t at = from + i * kThreads;
  if (at < total) {
    out[at] = float(sum[at]) + float(value[at]);
  }
}
