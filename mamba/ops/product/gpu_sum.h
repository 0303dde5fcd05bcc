// GPU kernel, in the dialect of ops/gpu: out[i] = the sum of `a` and `b`, both (counts, size), over their first axes.
const int64_t size = int64_t(a_shape[1]);
const int64_t from = int64_t(MAMBA_GROUP_X) * (kPer * kThreads) + MAMBA_THREAD;
MAMBA_UNROLL
for (int i = 0; i < kPer; ++i) {
  const int64_t at = from + i * kThreads;
  if (at < size) {
    float sum = float(a[at]);
    for (int k = 1; k < a_shape[0]; ++k) {
      sum += float(a[k * size + at]);
    }
    for (int k = 0; k < b_shape[0]; ++k) {
      sum += float(b[k * size + at]);
    }
    out[at] = sum;
  }
}
