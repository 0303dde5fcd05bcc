// GPU kernel, in the dialect of ops/gpu: one row of logits (rows, N) to a group. Gives the target's log-probability and
// the logarithm of the softmax's sum, both (rows,).
constexpr float kLog2e = 1.44269504f;
constexpr float kLn2 = 0.693147181f;
constexpr int kSimds = kThreads / 32;
const int words = logits_shape[1];
const int thread = MAMBA_THREAD;
const int row = MAMBA_GROUP_X;
const int64_t start = int64_t(row) * words;
MAMBA_SHARED(float, maxima, kSimds);
MAMBA_SHARED(float, sums, kSimds);
// Finite, so that a difference of two is a number.
float maximum = -3e38f;
float sum = 0.0f;
for (int n = thread; n < words; n += kThreads) {
  const float v = kLog2e * float(logits[start + n]);
  const float larger = mamba_max(maximum, v);
  sum = sum * mamba_exp2(maximum - larger) + mamba_exp2(v - larger);
  maximum = larger;
}
mamba_join_lanes(maximum, sum);
if (thread % 32 == 0) {
  maxima[thread / 32] = maximum;
  sums[thread / 32] = sum;
}
MAMBA_BARRIER();
if (thread == 0) {
  for (int i = 1; i < kSimds; ++i) {
    mamba_join_powers(maximum, sum, maxima[i], sums[i]);
  }
  const float log_sum = kLn2 * (maximum + mamba_log2(sum));
  const int target = int(targets[row]);
  const int ignored = int((uint32_t(kIgnoredHigh) << 16) | uint32_t(kIgnoredLow));
  const bool known = target >= 0 && target < words;
  log_sums[row] = log_sum;
  const float chosen = known ? float(logits[start + target]) : 0.0f;
  log_probability[row] = target == ignored ? 0.0f : (known ? chosen - log_sum : mamba_not_a_number());
}
