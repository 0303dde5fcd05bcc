// GPU kernel, in the dialect of ops/gpu: the gradient of the logits (rows, N) in T, from that of the log-probabilities:
// g ([n = target] - exp(logit - log_sum)), and 0 in rows that do not count.
constexpr float kLog2e = 1.44269504f;
const int words = logits_shape[1];
const int row = MAMBA_GROUP_Y;
const int target = int(targets[row]);
const int ignored = int((uint32_t(kIgnoredHigh) << 16) | uint32_t(kIgnoredLow));
const bool counts = target != ignored && target >= 0 && target < words;
const float g = counts ? float(cotangent[row]) : 0.0f;
const float log_sum = float(log_sums[row]);
const int64_t start = int64_t(row) * words;
MAMBA_UNROLL
for (int i = 0; i < kPer; ++i) {
  const int n = (MAMBA_GROUP_X * kPer + i) * kThreads + MAMBA_THREAD;
  if (n < words) {
    const float share = mamba_exp2(kLog2e * (float(logits[start + n]) - log_sum));
    gradient[start + n] = T(counts ? g * ((n == target ? 1.0f : 0.0f) - share) : 0.0f);
  }
}
