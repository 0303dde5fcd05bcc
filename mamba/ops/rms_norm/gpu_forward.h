// GPU kernel, in the dialect of ops/gpu: one row to a group, kPer of its numbers to a thread, in registers.
// x, residual, y and sum are (rows, D). T, Sum: dtypes of y and of the sum.
const int channels = x_shape[1];
const int thread = MAMBA_THREAD;
const int64_t row = int64_t(MAMBA_GROUP_X) * channels;
MAMBA_SHARED(float, squares_of, kThreads / 32);
float value[kPer];
float squares = 0.0f;
MAMBA_UNROLL
for (int i = 0; i < kPer; ++i) {
  const int c = i * kThreads + thread;
  value[i] = 0.0f;
  if (c < channels) {
    value[i] = float(x[row + c]);
    if (kHasResidual) {
      value[i] += float(residual[row + c]);
    }
    if (kHasSum) {
      const Sum rounded = Sum(value[i]);
      sum[row + c] = rounded;
      value[i] = float(rounded);
    }
  }
  squares = mamba_fma(value[i], value[i], squares);
}
squares = mamba_lane_sum<32>(squares);
if (thread % 32 == 0) {
  squares_of[thread / 32] = squares;
}
MAMBA_BARRIER();
float total = 0.0f;
MAMBA_UNROLL
for (int i = 0; i < kThreads / 32; ++i) {
  total += squares_of[i];
}
const float scale = mamba_rsqrt(total / float(channels) + mamba_float_of_bits(kEpsBits));
MAMBA_UNROLL
for (int i = 0; i < kPer; ++i) {
  const int c = i * kThreads + thread;
  if (c < channels) {
    y[row + c] = T(value[i] * scale * float(weight[c]));
  }
}
