// GPU kernel, in the dialect of ops/gpu: each group's share of an array's sum of squares, `part` (groups,).
constexpr int kSimds = kThreads / 32;
const int64_t total = int64_t(int(count[0]));
MAMBA_SHARED(float, sums, kSimds);
float sum = 0.0f;
for (int64_t at = int64_t(MAMBA_GROUP_X) * kThreads + MAMBA_THREAD; at < total;
     at += int64_t(MAMBA_GROUPS_X) * kThreads) {
  const float value = float(numbers[at]);
  sum = mamba_fma(value, value, sum);
}
MAMBA_UNROLL
for (int bit = 16; bit >= 1; bit /= 2) {
  sum += MAMBA_SHUFFLE_XOR(sum, bit);
}
if (MAMBA_THREAD % 32 == 0) {
  sums[MAMBA_THREAD / 32] = sum;
}
MAMBA_BARRIER();
if (MAMBA_THREAD == 0) {
  for (int i = 1; i < kSimds; ++i) {
    sum += sums[i];
  }
  part[MAMBA_GROUP_X] = sum;
}
