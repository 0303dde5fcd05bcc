// GPU kernel, in the dialect of ops/gpu: one position of each sequence. kLanes neighbouring lanes share a channel.
constexpr float kLog2e = 1.44269504f;
const int channels = u_shape[1];
const int states = A_shape[1];
const int slice = MAMBA_THREAD % kLanes;
const int d = MAMBA_GROUP_X * (kThreads / kLanes) + MAMBA_THREAD / kLanes;
const bool real = d < channels;
const int c = real ? d : channels - 1;
const int b = MAMBA_GROUP_Y;
const float u_value = float(u[b * u_strides[0] + c * u_strides[1]]);
const float raw = float(delta[b * delta_strides[0] + c * delta_strides[1]]) + (kHasBias ? float(delta_bias[c]) : 0.0f);
const float dt = kSoftplus ? mamba_softplus(raw) : raw;
float sum = 0.0f;
for (int n = slice; n < states; n += kLanes) {
  const int64_t at = (int64_t(b) * channels + c) * states + n;
  const float before = kHasState ? float(first[at]) : 0.0f;
  const float decay = mamba_exp2(dt * (kLog2e * float(A[int64_t(c) * states + n])));
  const float h = mamba_fma(decay, before, dt * u_value * float(B[b * B_strides[0] + n * B_strides[1]]));
  sum = mamba_fma(float(C[b * C_strides[0] + n * C_strides[1]]), h, sum);
  if (real) {
    state[at] = h;
  }
}
sum = mamba_lane_sum<kLanes>(sum);
if (real && slice == 0) {
  float out = kHasD ? mamba_fma(float(D[c]), u_value, sum) : sum;
  out = kHasZ ? out * mamba_silu(float(z[b * z_strides[0] + c * z_strides[1]])) : out;
  y[int64_t(b) * channels + d] = T(out);
}
