// GPU kernel, in the dialect of ops/gpu: from what each chunk adds to the state (gpu_local.h), the state that enters
// each chunk, (B, G, N, D). Backwards (kReverse): the gradient of the state that leaves each chunk.
// `first` is the initial state or, backwards, the cotangent of the final one, (B, D, N).
constexpr int kBatch = 16;  // loads in flight
constexpr float kLog2e = 1.44269504f;
const int others = local_shape[1];
const int states = local_shape[2];
const int channels = local_shape[3];
const int at = MAMBA_GROUP_X * kThreads + MAMBA_THREAD;
const int b = MAMBA_GROUP_Y;
if (at < states * channels) {
  const int n = at / channels;
  const int d = at % channels;
  const int64_t row = int64_t(states) * channels;
  const float A2 = kLog2e * float(A[int64_t(d) * states + n]);
  float h = kHasState ? float(first[(int64_t(b) * channels + d) * states + n]) : 0.0f;
  carry[(int64_t(b) * (others + 1) + (kReverse ? others : 0)) * row + at] = h;
  for (int step = 0; step < others; step += kBatch) {
    float added[kBatch];
    float passed[kBatch];
    MAMBA_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      const bool there = step + i < others;
      const int r = kReverse ? others - 1 - step - i : step + i;
      added[i] = there ? float(local[(int64_t(b) * others + r) * row + at]) : 0.0f;
      passed[i] = there ? float(total[(int64_t(b) * others + r) * channels + d]) : 0.0f;
    }
    MAMBA_UNROLL
    for (int i = 0; i < kBatch; ++i) {
      const int r = kReverse ? others - 1 - step - i : step + i;
      if (step + i < others) {
        const float before = passed[i] > 3e38f ? 0.0f : mamba_exp2(passed[i] * A2) * h;
        h = before + added[i];
        carry[(int64_t(b) * (others + 1) + (kReverse ? r : r + 1)) * row + at] = h;
      }
    }
  }
}
