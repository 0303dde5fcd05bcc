// GPU kernel, in the dialect of ops/gpu: the gradients of one channel's positions. A thread walks through kTiles tiles
// of kTile positions; what was in front of the activation is computed again, and a position's gradient is complete
// kTaps - 1 positions later, so that ranges overlap by as many. Each group leaves its sums for weights and bias in
// `part_weight` (B ranges, D, K) and `part_bias` (B ranges, D); without kHasLast the gradient of the final state is 0.
// One more group for each block of channels writes the gradient of the initial state.
constexpr int kBefore = kTaps - 1;
const int kRange = kTiles * kTile - kBefore;
constexpr int kWindow = kTile + kBefore;
const int length = x_shape[1];
const int channels = x_shape[2];
const int blocks = (channels + kThreads - 1) / kThreads;
const int ranges = (length + kRange - 1) / kRange;
const int index = MAMBA_GROUP_X / blocks;
const int d = MAMBA_GROUP_X % blocks * kThreads + MAMBA_THREAD;
const int b = MAMBA_GROUP_Y;
const int begin = kHasSpans ? mamba_clamped(int(spans[2 * b]), 0, length) : 0;
const int end = kHasSpans ? mamba_clamped(int(spans[2 * b + 1]), begin, length) : length;
if (d < channels) {
  const int x_step = int(x_strides[1]);
  const int gy_step = int(gy_strides[1]);
  const auto first_at = first + (kHasState ? int64_t(b) * kBefore * channels + d : 0);
  const auto gstate_at = gstate + (kHasLast ? int64_t(b) * kBefore * channels + d : 0);
  float w[kTaps];
  float gw[kTaps];
  float gbias = 0.0f;
  MAMBA_UNROLL
  for (int k = 0; k < kTaps; ++k) {
    w[k] = float(weight[d * kTaps + k]);
    gw[k] = 0.0f;
  }
  const float shift = kHasBias ? float(bias[d]) : 0.0f;
  const int start = index == ranges ? begin - kBefore : index * kRange;
  const int stop = index == ranges ? begin : (length < start + kRange ? length : start + kRange);
  // Positions t - (K - 1) ... t + kTile - 1: inputs, whether a document starts there, and gradients of the sums in
  // front of the activation.
  float value[kWindow];
  bool reset[kWindow];
  float g[kWindow];
  T next_x[kTile];
  T next_gy[kTile];
  MAMBA_UNROLL
  for (int i = 0; i < kBefore; ++i) {
    const int t = start - kBefore + i;
    value[i] = 0.0f;
    reset[i] = false;
    g[i] = 0.0f;
    if (t >= begin && t < end) {
      value[i] = float(x[b * x_strides[0] + d * x_strides[2] + int64_t(t) * x_step]);
      reset[i] = kHasResets && int(resets[int64_t(b) * length + t]) != 0;
    } else if (kHasState && t < begin && t >= begin - kBefore) {
      value[i] = float(first_at[(kBefore + t - begin) * channels]);
    }
  }
  auto x_at = x + (b * x_strides[0] + d * x_strides[2] + int64_t(start) * x_step);
  auto gy_at = gy + (b * gy_strides[0] + d * gy_strides[2] + int64_t(start) * gy_step);
  auto gx_at = gx + ((int64_t(b) * length + start - kBefore) * channels + d);
  MAMBA_UNROLL
  for (int i = 0; i < kTile; ++i) {
    const bool there = start + i >= begin && start + i < end;
    next_x[i] = there ? T(x_at[i * x_step]) : T(0.0f);
    next_gy[i] = there ? T(gy_at[i * gy_step]) : T(0.0f);
  }
  MAMBA_NO_UNROLL
  for (int from = start; from < stop + kBefore; from += kTile) {
    MAMBA_UNROLL
    for (int i = 0; i < kTile; ++i) {
      const int t = from + i;
      value[kBefore + i] = float(next_x[i]);
      g[kBefore + i] = float(next_gy[i]);
      reset[kBefore + i] = kHasResets && t >= begin && t < end && int(resets[int64_t(b) * length + t]) != 0;
    }
    if (kHasState && from < begin) {
      MAMBA_UNROLL
      for (int i = 0; i < kTile; ++i) {
        const int t = from + i;
        if (t < begin && t >= begin - kBefore) {
          value[kBefore + i] = float(first_at[(kBefore + t - begin) * channels]);
        }
      }
    }
    x_at += kTile * x_step;
    gy_at += kTile * gy_step;
    if (from + kTile < stop + kBefore) {
      MAMBA_UNROLL
      for (int i = 0; i < kTile; ++i) {
        const int t = from + kTile + i;
        const bool there = t >= begin && t < end;
        next_x[i] = there ? T(x_at[i * x_step]) : T(0.0f);
        next_gy[i] = there ? T(gy_at[i * gy_step]) : T(0.0f);
      }
    }
    MAMBA_UNROLL
    for (int i = 0; i < kTile; ++i) {
      const int t = from + i;
      if (kSilu) {
        float sum = shift;
        bool seen = true;
        MAMBA_UNROLL
        for (int back = 0; back < kTaps; ++back) {
          const int j = i + kBefore - back;
          sum = seen ? mamba_fma(w[kBefore - back], value[j], sum) : sum;
          seen = seen && !reset[j];
        }
        const float s = mamba_sigmoid(sum);
        g[kBefore + i] *= s * mamba_fma(sum, 1.0f - s, 1.0f);
      }
      // Positions past the range belong to the next one.
      const float counted = t < stop ? g[kBefore + i] : 0.0f;
      gbias += counted;
      bool seen = true;
      MAMBA_UNROLL
      for (int back = 0; back < kTaps; ++back) {
        const int j = i + kBefore - back;
        gw[kBefore - back] = seen ? mamba_fma(counted, value[j], gw[kBefore - back]) : gw[kBefore - back];
        seen = seen && !reset[j];
      }
      const int p = t - kBefore;
      float sum = 0.0f;
      seen = true;  // by the position that is `ahead`
      MAMBA_UNROLL
      for (int ahead = 0; ahead < kTaps; ++ahead) {
        if (ahead > 0) {
          seen = seen && !reset[i + ahead];
        }
        sum = seen ? mamba_fma(w[kBefore - ahead], g[i + ahead], sum) : sum;
        // What follows the last position sees what that one does.
        if (kHasLast && p + ahead + 1 == end && seen && p >= end - kBefore) {
          sum += float(gstate_at[int64_t(p - end + kBefore) * channels]);
        }
      }
      if (p >= start && p < stop) {
        if (index == ranges) {
          gfirst[(int64_t(b) * kBefore + p - start) * channels + d] = T(sum);
        } else {
          gx_at[int64_t(i) * channels] = T(p >= begin && p < end ? sum : 0.0f);
        }
      }
    }
    gx_at += int64_t(kTile) * channels;
    MAMBA_UNROLL
    for (int i = 0; i < kBefore; ++i) {
      value[i] = value[kTile + i];
      reset[i] = reset[kTile + i];
      g[i] = g[kTile + i];
    }
  }
  if (index < ranges) {
    const int64_t row = (int64_t(b) * ranges + index) * channels + d;
    MAMBA_UNROLL
    for (int k = 0; k < kTaps; ++k) {
      part_weight[row * kTaps + k] = gw[k];
    }
    part_bias[row] = gbias;
  }
}
