// GPU kernel, in the dialect of ops/gpu: cells (B, cells, blocks, N, kBlock) with what each chunk adds to the state
// (gpu_local.h) become, in place, cells with the state that enters each chunk. Backwards (kReverse): with the gradient
// of the state that leaves each chunk. `first` is the initial state or, backwards, the cotangent of the final one (B,
// D, N). `done` tells whoever reads the cells that they are ready.
constexpr int kBatch = 16;  // loads in flight
constexpr float kLog2e = 1.44269504f;
const int others = total_shape[1];
const int channels = total_shape[2];
const int cells = carried_shape[1];
const int states = carried_shape[3];
const int apart = (cells + others) / (others + 1);
const int at = MAMBA_GROUP_X * kThreads + MAMBA_THREAD;
const int b = MAMBA_GROUP_Y;
const int n = at / kBlock % states;
const int d = at / kBlock / states * kBlock + at % kBlock;
if (at == 0 && b == 0) {
  done[0] = 1.0f;
}
if (d < channels) {
  const int64_t row = (channels + kBlock - 1) / kBlock * kBlock * int64_t(states);
  auto own = MAMBA_WRITABLE(float, carried) + (b * cells * row + at);
  const auto passed_by = total + (int64_t(b) * others * channels + d);
  const float A2 = kLog2e * float(A[int64_t(d) * states + n]);
  float h = kHasState ? float(first[(int64_t(b) * channels + d) * states + n]) : 0.0f;
  own[(kReverse ? others : 0) * apart * row] = h;
  for (int step = 0; step < others; step += kBatch) {
    float added[kBatch];
    float passed[kBatch];
    MAMBA_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      const bool there = step + i < others;
      const int r = kReverse ? others - 1 - step - i : step + i;
      added[i] = there ? float(own[(kReverse ? r : r + 1) * apart * row]) : 0.0f;
      passed[i] = there ? float(passed_by[int64_t(r) * channels]) : 0.0f;
    }
    MAMBA_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      const int r = kReverse ? others - 1 - step - i : step + i;
      if (step + i < others) {
        const float before = passed[i] > 3e38f ? 0.0f : mamba_exp2(passed[i] * A2) * h;
        h = before + added[i];
        own[(kReverse ? r : r + 1) * apart * row] = h;
      }
    }
  }
}
