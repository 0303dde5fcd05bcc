// GPU kernel, in the dialect of ops/gpu: one position of each sequence, one channel to a thread.
constexpr int kBefore = kTaps - 1;
const int channels = x_shape[1];
const int d = MAMBA_GROUP_X * kThreads + MAMBA_THREAD;
const int b = MAMBA_GROUP_Y;
if (d < channels) {
  const T newest = T(x[b * x_strides[0] + d * x_strides[1]]);
  const int64_t at = int64_t(b) * kBefore * channels + d;
  const float sum = mamba_conv_step<kTaps, T>(weight + d * kTaps, first + (kHasState ? at : 0), channels, state + at,
                                              channels, newest, kHasBias ? float(bias[d]) : 0.0f, kHasState);
  y[int64_t(b) * channels + d] = T(kSilu ? mamba_silu(sum) : sum);
}
