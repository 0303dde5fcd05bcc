// GPU kernel, in the dialect of ops/gpu: one row of logits (rows, N) to a group. Gives the target's log-probability
// (rows,) and the gradient of the logits (rows, N) in T, cotangent ([n = target] - softmax), which is 0 in rows that do
// not count. kPair: the logits are sums of `logits` and `rest`. kPieces > 0: the gradient is (kPieces, 3 rows,
// kPieceWords), words in pieces with zeros behind the last, each as ops/product splits it: all of its low parts, then
// its high parts twice.
//
// kStaged > 0: the row's logits, so many and whole lines of 16 bytes (kLines), are kept in shared memory, since all
// rows that are worked on do not fit into the cache.
constexpr float kLog2e = 1.44269504f;
constexpr float kLn2 = 0.693147181f;
constexpr int kSimds = kThreads / 32;
constexpr int kPer = kLines ? 16 / int(sizeof(T)) : 1;
constexpr int kLoads = kLines ? 2 : 4;  // in flight
const int words = logits_shape[1];
const int thread = MAMBA_THREAD;
const int row = MAMBA_GROUP_X;
const int64_t start = int64_t(row) * words;
MAMBA_SHARED(float, maxima, kSimds);
MAMBA_SHARED(float, sums, kSimds);
MAMBA_SHARED_MORE(float, staged, kStaged > 0 ? kStaged : 1);
const auto logits_at = logits + start;
const auto rest_at = rest + (kPair ? start : 0);
const auto gradient_at = gradient + (kPieces > 0 ? int64_t(row) * kPieceWords : start);
const int64_t apart = int64_t(logits_shape[0]) * kPieceWords;
const int units = words / kPer;
// Finite, so that a difference of two is a number.
float maximum = -3e38f;
float sum = 0.0f;
MAMBA_NO_UNROLL
for (int from = thread; from < units; from += kThreads * kLoads) {
  float v[kLoads][kPer];
  MAMBA_UNROLL
  for (int k = 0; k < kLoads; ++k) {
    const int unit = from + k * kThreads;
    if (unit < units) {
      mamba_load_sums<T, kPer>(logits_at + unit * kPer, rest_at + unit * kPer, kPair, v[k]);
    } else {
      MAMBA_UNROLL
      for (int i = 0; i < kPer; ++i) {
        v[k][i] = -3e38f;
      }
    }
  }
  float larger = maximum;
  MAMBA_UNROLL
  for (int k = 0; k < kLoads * kPer; ++k) {
    larger = mamba_max(larger, kLog2e * v[k / kPer][k % kPer]);
  }
  sum *= mamba_exp2(maximum - larger);
  MAMBA_UNROLL
  for (int k = 0; k < kLoads; ++k) {
    const int unit = from + k * kThreads;
    if (unit < units) {
      MAMBA_UNROLL
      for (int i = 0; i < kPer; ++i) {
        sum += mamba_exp2(kLog2e * v[k][i] - larger);
        if (kStaged > 0) {
          staged[i * units + unit] = v[k][i];
        }
      }
    }
  }
  maximum = larger;
}
mamba_join_lanes(maximum, sum);
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
const int gradients = (kPieces > 0 ? kPieces * kPieceWords : words) / kPer;
MAMBA_NO_UNROLL
for (int from = thread; from < gradients; from += kThreads * kLoads) {
  MAMBA_UNROLL
  for (int k = 0; k < kLoads; ++k) {
    const int unit = from + k * kThreads;
    if (unit < gradients) {
      float v[kPer];
      if (kStaged == 0 && unit < units) {
        mamba_load_sums<T, kPer>(logits_at + unit * kPer, rest_at + unit * kPer, kPair, v);
      } else if (unit < units) {
        MAMBA_UNROLL
        for (int i = 0; i < kPer; ++i) {
          v[i] = staged[i * units + unit];
        }
      }
      MAMBA_UNROLL
      for (int i = 0; i < kPer; ++i) {
        const bool real = counts && unit < units;
        const float share = real ? mamba_exp2(kLog2e * v[i] - log2_sum) : 0.0f;
        v[i] = unit < units ? g * ((unit * kPer + i == target ? 1.0f : 0.0f) - share) : 0.0f;
      }
      if (kPieces > 0) {
        const auto to = gradient_at + (unit / kPieceWords * 3 * apart + unit % kPieceWords);
        to[0] = T(mamba_low_part(v[0]));
        to[apart] = T(mamba_high_part(v[0]));
        to[2 * apart] = T(mamba_high_part(v[0]));
      } else {
        MambaNumbers<T, kPer> out;
        out.round(v);
        out.store(gradient_at + unit * kPer);
      }
    }
  }
}
