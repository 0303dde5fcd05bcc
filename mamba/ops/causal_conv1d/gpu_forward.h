// GPU kernel, in the dialect of ops/gpu: kRun positions of kEach neighbouring channels to a thread; everything it needs
// is loaded before anything is computed, so that many loads are in flight. One more group of threads for each block of
// channels writes the state.
const int length = x_shape[1];
const int channels = x_shape[2];
const int blocks = (channels + kThreads * kEach - 1) / (kThreads * kEach);
const int runs = (length + kRun - 1) / kRun;
const int run = MAMBA_GROUP_X / blocks;
const int d = (MAMBA_GROUP_X % blocks * kThreads + MAMBA_THREAD) * kEach;
const int b = MAMBA_GROUP_Y;
const int begin = kHasSpans ? mamba_clamped(int(spans[2 * b]), 0, length) : 0;
const int end = kHasSpans ? mamba_clamped(int(spans[2 * b + 1]), begin, length) : length;
if (d < channels) {
  constexpr int kBefore = kTaps - 1;
  const int x_step = int(x_strides[1]);
  const int x_apart = int(x_strides[2]);
  const int near = channels - d;  // to the thread's first channel's right, itself included
  const auto x_at = x + (b * x_strides[0] + d * x_strides[2]);
  const auto first_at = first + (kHasState ? int64_t(b) * kBefore * channels + d : 0);
  const bool rows_whole = kEach == 1 || channels % kEach == 0;
  const bool x_whole = kEach == 1 || (rows_whole && x_apart == 1 && MambaNumbers<T, kEach>::whole(x_at, x_step));
  // Position of value 0. The state is what a run of K - 1 positions at the end has before its next one.
  const int start = run < runs ? run * kRun - kBefore : end - kBefore;
  constexpr int kValues = kRun + kBefore;
  MambaNumbers<T, kEach> value[kValues];
  bool reset[kValues];
  // Where no token is something else is read, so that no load waits for a branch.
  const int last = end > begin ? end - 1 : begin;
  const int most = last < length ? last : length - 1;
  if (x_whole) {
    MAMBA_UNROLL
    for (int i = 0; i < kValues; ++i) {
      const int t = start + i < begin ? begin : start + i;
      value[i].load(x_at + int64_t(t > most ? most : t) * x_step);
    }
  } else {
    MAMBA_UNROLL
    for (int i = 0; i < kValues; ++i) {
      const int t = start + i < begin ? begin : start + i;
      MAMBA_UNROLL
      for (int e = 0; e < kEach; ++e) {
        value[i].set(e, T(x_at[int64_t(t > most ? most : t) * x_step + (e < near ? e : 0) * x_apart]));
      }
    }
  }
  MAMBA_UNROLL
  for (int i = 0; i < kValues; ++i) {
    const int t = start + i;
    const bool inside = t >= begin && t < end;
    reset[i] = kHasResets && inside && int(resets[int64_t(b) * length + t]) != 0;
    if (!inside) {
      const bool before = kHasState && t < begin && t >= begin - kBefore;
      MAMBA_UNROLL
      for (int e = 0; e < kEach; ++e) {
        value[i].set(e, before && e < near ? T(first_at[(kBefore + t - begin) * channels + e]) : T(0.0f));
      }
    }
  }
  if (run < runs) {
    float w[kEach][kTaps];
    float shift[kEach];
    MAMBA_UNROLL
    for (int e = 0; e < kEach; ++e) {
      const int c = e < near ? d + e : d;
      MAMBA_UNROLL
      for (int k = 0; k < kTaps; ++k) {
        w[e][k] = float(weight[c * kTaps + k]);
      }
      shift[e] = kHasBias ? float(bias[c]) : 0.0f;
    }
    const auto y_at = y + ((int64_t(b) * length + run * kRun) * channels + d);
    const bool y_whole = kEach == 1 || (rows_whole && MambaNumbers<T, kEach>::whole(y_at, channels));
    MAMBA_UNROLL
    for (int i = 0; i < kRun; ++i) {
      const int t = run * kRun + i;
      float out[kEach];
      MAMBA_UNROLL
      for (int e = 0; e < kEach; ++e) {
        float sum = shift[e];
        bool seen = true;
        MAMBA_UNROLL
        for (int back = 0; back < kTaps; ++back) {
          const int j = i + kBefore - back;
          sum = seen ? mamba_fma(w[e][kBefore - back], value[j].get(e), sum) : sum;
          seen = seen && !reset[j];
        }
        out[e] = t >= begin && t < end ? (kSilu ? mamba_silu(sum) : sum) : 0.0f;
      }
      if (t < length) {
        if (y_whole) {
          MambaNumbers<T, kEach> rounded;
          rounded.round(out);
          rounded.store(y_at + int64_t(i) * channels);
        } else {
          MAMBA_UNROLL
          for (int e = 0; e < kEach; ++e) {
            if (e < near) {
              y_at[int64_t(i) * channels + e] = T(out[e]);
            }
          }
        }
      }
    }
  } else {
    bool seen = true;
    MAMBA_UNROLL
    for (int back = 1; back <= kBefore; ++back) {
      const int j = kBefore - back;
      MAMBA_UNROLL
      for (int e = 0; e < kEach; ++e) {
        if (e < near) {
          state[(int64_t(b) * kBefore + j) * channels + d + e] = T(seen ? value[j].get(e) : 0.0f);
        }
      }
      seen = seen && !reset[j];
    }
  }
}
