// GPU kernel, in the dialect of ops/gpu: the gradients of rows MAMBA_GROUP_X, MAMBA_GROUP_X + groups, ... Their share
// of the weight's gradient goes to `part` (groups, D). kWide: gx also in float32, in `gwide`. `x` is what was
// normalised, `gsum` its own cotangent.
//
//   gx = r w gy - x r^3 / D sum(w gy x) + gsum,   r = 1 / sqrt(mean(x^2) + eps)
const int rows = x_shape[0];
const int channels = x_shape[1];
const int thread = MAMBA_THREAD;
MAMBA_SHARED(float, sums_of, 2 * (kThreads / 32));
float w[kPer];
float gw[kPer];
MAMBA_UNROLL
for (int i = 0; i < kPer; ++i) {
  const int c = i * kThreads + thread;
  w[i] = c < channels ? float(weight[c]) : 0.0f;
  gw[i] = 0.0f;
}
// The next row is loaded while this one is worked on.
float next_value[kPer];
float next_g[kPer];
float next_sum[kPer];
MAMBA_UNROLL
for (int i = 0; i < kPer; ++i) {
  const int c = i * kThreads + thread;
  const int64_t at = int64_t(MAMBA_GROUP_X) * channels + c;
  next_value[i] = c < channels ? float(x[at]) : 0.0f;
  next_g[i] = c < channels ? float(gy[at]) : 0.0f;
  next_sum[i] = kHasSum && c < channels ? float(gsum[at]) : 0.0f;
}
MAMBA_NO_UNROLL
for (int r = MAMBA_GROUP_X; r < rows; r += MAMBA_GROUPS_X) {
  const int64_t row = int64_t(r) * channels;
  float value[kPer];
  float g[kPer];
  float added[kPer];
  float squares = 0.0f;
  float dots = 0.0f;
  MAMBA_UNROLL
  for (int i = 0; i < kPer; ++i) {
    value[i] = next_value[i];
    g[i] = next_g[i];
    added[i] = next_sum[i];
  }
  if (r + MAMBA_GROUPS_X < rows) {
    MAMBA_UNROLL
    for (int i = 0; i < kPer; ++i) {
      const int c = i * kThreads + thread;
      const int64_t at = row + int64_t(MAMBA_GROUPS_X) * channels + c;
      next_value[i] = c < channels ? float(x[at]) : 0.0f;
      next_g[i] = c < channels ? float(gy[at]) : 0.0f;
      next_sum[i] = kHasSum && c < channels ? float(gsum[at]) : 0.0f;
    }
  }
  MAMBA_UNROLL
  for (int i = 0; i < kPer; ++i) {
    squares = mamba_fma(value[i], value[i], squares);
    dots = mamba_fma(g[i] * w[i], value[i], dots);
  }
  MAMBA_UNROLL
  for (int bit = 16; bit >= 1; bit /= 2) {
    squares += MAMBA_SHUFFLE_XOR(squares, bit);
    dots += MAMBA_SHUFFLE_XOR(dots, bit);
  }
  MAMBA_BARRIER();
  if (thread % 32 == 0) {
    sums_of[thread / 32] = squares;
    sums_of[kThreads / 32 + thread / 32] = dots;
  }
  MAMBA_BARRIER();
  float total = 0.0f;
  float dot = 0.0f;
  MAMBA_UNROLL
  for (int i = 0; i < kThreads / 32; ++i) {
    total += sums_of[i];
    dot += sums_of[kThreads / 32 + i];
  }
  const float scale = mamba_rsqrt(total / float(channels) + mamba_float_of_bits(kEpsBits));
  const float share = dot * scale * scale * scale / float(channels);
  MAMBA_UNROLL
  for (int i = 0; i < kPer; ++i) {
    const int c = i * kThreads + thread;
    if (c < channels) {
      float gradient = mamba_fma(-share, value[i], scale * w[i] * g[i]);
      gradient = kHasSum ? gradient + added[i] : gradient;
      gx[row + c] = T(gradient);
      if (kWide) {
        gwide[row + c] = gradient;
      }
    }
    gw[i] = mamba_fma(g[i] * scale, value[i], gw[i]);
  }
}
MAMBA_UNROLL
for (int i = 0; i < kPer; ++i) {
  const int c = i * kThreads + thread;
  if (c < channels) {
    part[int64_t(MAMBA_GROUP_X) * channels + c] = gw[i];
  }
}
