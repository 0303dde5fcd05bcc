// GPU kernel, in the dialect of ops/gpu: the gradients of one channel's positions, kRun at a time. What was in front of
// the activation is computed again. Each group leaves the sums for weights and bias of its kRuns runs in `part`
// (B groups, K + 1, D); one more group for each block of channels writes the gradient of the initial state.
const int length = x_shape[1];
const int channels = x_shape[2];
const int blocks = (channels + kThreads - 1) / kThreads;
const int runs = (length + kRun - 1) / kRun;
const int parts = (runs + kRuns - 1) / kRuns;
const int index = MAMBA_GROUP_X / blocks;
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
  constexpr int kValues = kRun + 2 * kBefore;  // from position start - (K - 1) on
  constexpr int kOutputs = kRun + kBefore;     // from position start on
  const int x_step = int(x_strides[1]);
  const int gy_step = int(gy_strides[1]);
  const auto x_at = x + (b * x_strides[0] + d * x_strides[2]);
  const auto gy_at = gy + (b * gy_strides[0] + d * gy_strides[2]);
  const auto first_at = first + (kHasState ? int64_t(b) * kBefore * channels + d : 0);
  const auto gstate_at = gstate + (int64_t(b) * kBefore * channels + d);
  float w[kTaps];
  float gw[kTaps];
  float gbias = 0.0f;
  MAMBA_UNROLL
  for (int k = 0; k < kTaps; ++k) {
    w[k] = float(weight[d * kTaps + k]);
    gw[k] = 0.0f;
  }
  const float shift = kHasBias ? float(bias[d]) : 0.0f;
  const int first_run = index * kRuns;
  const int end_run = index == parts ? first_run + 1 : (runs < first_run + kRuns ? runs : first_run + kRuns);
  MAMBA_NO_UNROLL
  for (int run = first_run; run < end_run; ++run) {
    const int start = index == parts ? begin - kBefore : run * kRun;
    const int stop = index == parts ? begin : (length < start + kRun ? length : start + kRun);
    T value[kValues];
    bool reset[kValues];
    float g[kOutputs];  // of the sums in front of the activation
    MAMBA_UNROLL
    for (int i = 0; i < kValues; ++i) {
      const int t = start - kBefore + i;
      value[i] = T(0.0f);
      reset[i] = false;
      if (t >= begin && t < end) {
        value[i] = T(x_at[int64_t(t) * x_step]);
        reset[i] = kHasResets && int(resets[int64_t(b) * length + t]) != 0;
      } else if (kHasState && t < begin && t >= begin - kBefore) {
        value[i] = T(first_at[(kBefore + t - begin) * channels]);
      }
    }
    MAMBA_UNROLL
    for (int i = 0; i < kOutputs; ++i) {
      const int t = start + i;
      g[i] = t >= begin && t < end ? float(gy_at[int64_t(t) * gy_step]) : 0.0f;
    }
    MAMBA_UNROLL
    for (int i = 0; i < kOutputs; ++i) {
      float sum = shift;
      bool seen = true;
      MAMBA_UNROLL
      for (int back = 0; back < kTaps; ++back) {
        const int j = i + kBefore - back;
        sum = seen ? mamba_fma(w[kBefore - back], float(value[j]), sum) : sum;
        seen = seen && !reset[j];
      }
      if (kSilu) {
        const float s = mamba_sigmoid(sum);
        g[i] *= s * mamba_fma(sum, 1.0f - s, 1.0f);
      }
      // Positions past the run belong to the next one.
      const float counted = start + i < stop ? g[i] : 0.0f;
      gbias += counted;
      seen = true;
      MAMBA_UNROLL
      for (int back = 0; back < kTaps; ++back) {
        const int j = i + kBefore - back;
        gw[kBefore - back] = seen ? mamba_fma(counted, float(value[j]), gw[kBefore - back]) : gw[kBefore - back];
        seen = seen && !reset[j];
      }
    }
    MAMBA_UNROLL
    for (int i = 0; i < kRun; ++i) {
      const int p = start + i;
      float sum = 0.0f;
      bool seen = true;  // by the position that is `ahead`
      MAMBA_UNROLL
      for (int ahead = 0; ahead < kTaps; ++ahead) {
        if (ahead > 0) {
          seen = seen && !reset[i + kBefore + ahead];
        }
        sum = seen ? mamba_fma(w[kBefore - ahead], g[i + ahead], sum) : sum;
        // What follows the last position sees what that one does.
        if (p + ahead + 1 == end && seen && p >= end - kBefore) {
          sum += float(gstate_at[int64_t(p - end + kBefore) * channels]);
        }
      }
      if (p < stop) {
        if (index == parts) {
          gfirst[(int64_t(b) * kBefore + i) * channels + d] = T(sum);
        } else {
          gx[(int64_t(b) * length + p) * channels + d] = T(p >= begin && p < end ? sum : 0.0f);
        }
      }
    }
  }
  if (index < parts) {
    MAMBA_UNROLL
    for (int k = 0; k < kTaps; ++k) {
      part[((int64_t(b) * parts + index) * (kTaps + 1) + k) * channels + d] = gw[k];
    }
    part[((int64_t(b) * parts + index) * (kTaps + 1) + kTaps) * channels + d] = gbias;
  }
}
