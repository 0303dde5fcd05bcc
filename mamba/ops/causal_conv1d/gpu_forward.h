// GPU kernel, in the dialect of ops/gpu: kRun positions of one channel to a thread; everything it needs is loaded
// before anything is computed, so that many loads are in flight. One more group of threads for each block of channels
// writes the state.
const int length = x_shape[1];
const int channels = x_shape[2];
const int blocks = (channels + kThreads - 1) / kThreads;
const int runs = (length + kRun - 1) / kRun;
const int run = MAMBA_GROUP_X / blocks;
const int d = MAMBA_GROUP_X % blocks * kThreads + MAMBA_THREAD;
const int b = MAMBA_GROUP_Y;
int begin = 0;
int end = length;
if (kHasSpans) {
  const int span_begin = int(spans[2 * b]);
  const int span_end = int(spans[2 * b + 1]);
  begin = span_begin < 0 ? 0 : (span_begin > length ? length : span_begin);
  end = span_end > length ? length : (span_end < begin ? begin : span_end);
}
if (d < channels) {
  constexpr int kBefore = kTaps - 1;
  const int x_step = int(x_strides[1]);
  const auto x_at = x + (b * x_strides[0] + d * x_strides[2]);
  const auto first_at = first + (kHasState ? int64_t(b) * kBefore * channels + d : 0);
  // Position of value 0. The state is what a run of K - 1 positions at the end has before its next one.
  const int start = run < runs ? run * kRun - kBefore : end - kBefore;
  constexpr int kValues = kRun + kBefore;
  T value[kValues];
  bool reset[kValues];
  MAMBA_UNROLL
  for (int i = 0; i < kValues; ++i) {
    const int t = start + i;
    value[i] = T(0.0f);
    reset[i] = false;
    if (t >= begin && t < end) {
      value[i] = T(x_at[int64_t(t) * x_step]);
      reset[i] = kHasResets && int(resets[int64_t(b) * length + t]) != 0;
    } else if (kHasState && t < begin && t >= begin - kBefore) {
      value[i] = T(first_at[(kBefore + t - begin) * channels]);
    }
  }
  if (run < runs) {
    float w[kTaps];
    MAMBA_UNROLL
    for (int k = 0; k < kTaps; ++k) {
      w[k] = float(weight[d * kTaps + k]);
    }
    const float shift = kHasBias ? float(bias[d]) : 0.0f;
    auto y_at = y + ((int64_t(b) * length + run * kRun) * channels + d);
    MAMBA_UNROLL
    for (int i = 0; i < kRun; ++i) {
      const int t = run * kRun + i;
      float sum = shift;
      bool seen = true;
      MAMBA_UNROLL
      for (int back = 0; back < kTaps; ++back) {
        const int j = i + kBefore - back;
        sum = seen ? mamba_fma(w[kBefore - back], float(value[j]), sum) : sum;
        seen = seen && !reset[j];
      }
      if (t < length) {
        const float out = kSilu ? mamba_silu(sum) : sum;
        y_at[int64_t(i) * channels] = T(t >= begin && t < end ? out : 0.0f);
      }
    }
  } else {
    bool seen = true;
    MAMBA_UNROLL
    for (int back = 1; back <= kBefore; ++back) {
      const int j = kBefore - back;
      state[(int64_t(b) * kBefore + j) * channels + d] = seen ? value[j] : T(0.0f);
      seen = seen && !reset[j];
    }
  }
}
