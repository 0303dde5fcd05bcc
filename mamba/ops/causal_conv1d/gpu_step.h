// GPU kernel, in the dialect of ops/gpu: one position of each sequence, one channel to a thread.
constexpr int kBefore = kTaps - 1;
const int channels = x_shape[1];
const int d = MAMBA_GROUP_X * kThreads + MAMBA_THREAD;
const int b = MAMBA_GROUP_Y;
if (d < channels) {
  const T newest = T(x[b * x_strides[0] + d * x_strides[1]]);
  float sum = mamba_fma(float(weight[d * kTaps + kBefore]), float(newest), kHasBias ? float(bias[d]) : 0.0f);
  MAMBA_UNROLL
  for (int k = 0; k < kBefore; ++k) {
    const int64_t at = (int64_t(b) * kBefore + k) * channels + d;
    const T value = kHasState ? T(first[at]) : T(0.0f);
    sum = mamba_fma(float(weight[d * kTaps + k]), float(value), sum);
    if (k > 0) {
      state[at - channels] = value;
    }
  }
  if (kBefore > 0) {
    state[(int64_t(b) * kBefore + kBefore - 1) * channels + d] = newest;
  }
  y[int64_t(b) * channels + d] = T(kSilu ? mamba_silu(sum) : sum);
}
