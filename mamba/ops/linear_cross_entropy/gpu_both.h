// GPU kernel, in the dialect of ops/gpu: one row of logits (rows, N) to a group. Gives the target's log-probability
// (rows,) and the gradient of the logits (rows, N) in T, cotangent ([n = target] - softmax), which is 0 in rows that do
// not count. kPair: the logits are sums of `logits` and `rest`. kPieces > 0: the gradient is (kPieces, 3 rows,
// kPieceWords), words in pieces with zeros behind the last, each as ops/product splits it: all of its low parts, then
// its high parts twice.
constexpr float kLog2e = 1.44269504f;
constexpr float kLn2 = 0.693147181f;
constexpr int kSimds = kThreads / 32;
constexpr int kLoads = 4;  // in flight
const int words = logits_shape[1];
const int thread = MAMBA_THREAD;
const int row = MAMBA_GROUP_X;
const int64_t start = int64_t(row) * words;
MAMBA_SHARED(float, maxima, kSimds);
MAMBA_SHARED(float, sums, kSimds);
const auto logits_at = logits + start;
const auto rest_at = rest + (kPair ? start : 0);
const auto gradient_at = gradient + (kPieces > 0 ? int64_t(row) * kPieceWords : start);
const int64_t apart = int64_t(logits_shape[0]) * kPieceWords;
// Finite, so that a difference of two is a number.
float maximum = -3e38f;
float sum = 0.0f;
MAMBA_NO_UNROLL
for (int from = thread; from < words; from += kThreads * kLoads) {
  float v[kLoads];
  MAMBA_UNROLL
  for (int i = 0; i < kLoads; ++i) {
    const int n = from + i * kThreads;
    v[i] = -3e38f;
    if (n < words) {
      v[i] = kLog2e * (float(logits_at[n]) + (kPair ? float(rest_at[n]) : 0.0f));
    }
  }
  float larger = maximum;
  MAMBA_UNROLL
  for (int i = 0; i < kLoads; ++i) {
    larger = mamba_max(larger, v[i]);
  }
  sum *= mamba_exp2(maximum - larger);
  MAMBA_UNROLL
  for (int i = 0; i < kLoads; ++i) {
    sum += from + i * kThreads < words ? mamba_exp2(v[i] - larger) : 0.0f;
  }
  maximum = larger;
}
MAMBA_UNROLL
for (int bit = 16; bit >= 1; bit /= 2) {
  const float other_maximum = MAMBA_SHUFFLE_XOR(maximum, bit);
  const float other_sum = MAMBA_SHUFFLE_XOR(sum, bit);
  const float larger = mamba_max(maximum, other_maximum);
  sum = sum * mamba_exp2(maximum - larger) + other_sum * mamba_exp2(other_maximum - larger);
  maximum = larger;
}
if (thread % 32 == 0) {
  maxima[thread / 32] = maximum;
  sums[thread / 32] = sum;
}
MAMBA_BARRIER();
maximum = maxima[0];
MAMBA_UNROLL
for (int i = 1; i < kSimds; ++i) {
  maximum = mamba_max(maximum, maxima[i]);
}
sum = 0.0f;
MAMBA_UNROLL
for (int i = 0; i < kSimds; ++i) {
  sum += sums[i] * mamba_exp2(maxima[i] - maximum);
}
const float log2_sum = maximum + mamba_log2(sum);
const int target = int(targets[row]);
const int ignored = int((uint32_t(kIgnoredHigh) << 16) | uint32_t(kIgnoredLow));
const bool known = target >= 0 && target < words;
const bool counts = known && target != ignored;
if (thread == 0) {
  const float chosen = counts ? float(logits_at[target]) + (kPair ? float(rest_at[target]) : 0.0f) : 0.0f;
  log_probability[row] = target == ignored ? 0.0f : (known ? chosen - kLn2 * log2_sum : mamba_not_a_number());
}
const float g = counts ? float(cotangent[row]) : 0.0f;
const int gradients = kPieces > 0 ? kPieces* kPieceWords : words;
MAMBA_NO_UNROLL
for (int from = thread; from < gradients; from += kThreads * kLoads) {
  MAMBA_UNROLL
  for (int i = 0; i < kLoads; ++i) {
    const int n = from + i * kThreads;
    if (n < gradients) {
      const float v = n < words ? kLog2e * (float(logits_at[n]) + (kPair ? float(rest_at[n]) : 0.0f)) : 0.0f;
      const float share = counts ? mamba_exp2(v - log2_sum) : 0.0f;
      const float of_logit = n < words ? g * ((n == target ? 1.0f : 0.0f) - share) : 0.0f;
      if (kPieces > 0) {
        const auto to = gradient_at + (n / kPieceWords * 3 * apart + n % kPieceWords);
        to[0] = T(mamba_low_part(of_logit));
        to[apart] = T(mamba_high_part(of_logit));
        to[2 * apart] = T(mamba_high_part(of_logit));
      } else {
        gradient_at[n] = T(of_logit);
      }
    }
  }
}
