// GPU kernel, in the dialect of ops/gpu: one token of sequence MAMBA_GROUP_X between a block's two large products, from
// `xz`. Three phases, since each needs all that the one before gives:
//
//   1. the convolution of x                                         a thread to a channel
//   2. dt, B and C = x_proj(u)                                      a SIMD group to a row of weights
//   3. dt_proj, the state's step, skip and gate                     four lanes to a channel
constexpr int kWarps = kThreads / 32;
constexpr int kBefore = kTaps - 1;
constexpr float kLog2e = 1.44269504f;
const int channels = A_shape[0];
const int states = A_shape[1];
const int rank = dt_proj_shape[1];
const int thread = MAMBA_THREAD;
const int lane = thread % 32;
const int warp = thread / 32;
const int b = MAMBA_GROUP_X;
for (int d = thread; d < channels; d += kThreads) {
  const int64_t at = int64_t(b) * kBefore * channels + d;
  const float sum = mamba_conv_step<kTaps, T>(conv_weight + int64_t(d) * kTaps, conv + at, channels, conv_after + at,
                                              channels, T(xz[b * xz_strides[0] + d * xz_strides[1]]),
                                              kHasConvBias ? float(conv_bias[d]) : 0.0f, true);
  u[int64_t(b) * channels + d] = T(mamba_silu(sum));
}
MAMBA_DEVICE_BARRIER();

const int projected = rank + 2 * states;
for (int row = warp; row < projected; row += kWarps) {
  const float dot = mamba_dot(x_proj + int64_t(row) * channels, u + int64_t(b) * channels, channels, lane);
  if (lane == 0) {
    dt_B_C[b * projected + row] = T(dot);
  }
}
MAMBA_DEVICE_BARRIER();

constexpr int kLanes = 4;
constexpr int kChannels = 32 / kLanes;  // of a SIMD group
constexpr int kRanks = 12;
const int slice = lane % kLanes;
const int pieces = (channels + kChannels - 1) / kChannels;
for (int task = warp; task < pieces; task += kWarps) {
  const int d = task * kChannels + lane / kLanes;
  const bool real = d < channels;
  const int c = real ? d : channels - 1;
  const int64_t at = int64_t(b) * channels + c;
  const int at_row = b * projected;
  // All that does not wait for dt is on its way before it is needed.
  float before[kPer];
  float rate[kPer];
  MAMBA_UNROLL
  for (int i = 0; i < kPer; ++i) {
    const int n = slice + i * kLanes;
    before[i] = n < states ? float(ssm[at * states + n]) : 0.0f;
    rate[i] = n < states ? float(A[int64_t(c) * states + n]) : 0.0f;
  }
  float dot = 0.0f;
  MAMBA_NO_UNROLL
  for (int from = slice; from < rank; from += kRanks * kLanes) {
    float w[kRanks];
    MAMBA_UNROLL
    for (int j = 0; j < kRanks; ++j) {
      const int k = from + j * kLanes;
      w[j] = k < rank ? float(dt_proj[int64_t(c) * rank + k]) : 0.0f;
    }
    MAMBA_UNROLL
    for (int j = 0; j < kRanks; ++j) {
      const int k = from + j * kLanes;
      dot = k < rank ? mamba_fma(w[j], float(dt_B_C[at_row + k]), dot) : dot;
    }
  }
  dot = mamba_lane_sum<kLanes>(dot);
  const float dt = mamba_softplus(float(T(dot)) + float(dt_bias[c]));
  const float u_value = float(u[at]);
  float sum = 0.0f;
  MAMBA_UNROLL
  for (int i = 0; i < kPer; ++i) {
    const int n = slice + i * kLanes;
    if (n < states) {
      const float decay = mamba_exp2(dt * (kLog2e * rate[i]));
      const float state = mamba_fma(decay, before[i], dt * u_value * float(dt_B_C[at_row + rank + n]));
      sum = mamba_fma(float(dt_B_C[at_row + rank + states + n]), state, sum);
      if (real) {
        ssm_after[at * states + n] = state;
      }
    }
  }
  sum = mamba_lane_sum<kLanes>(sum);
  if (real && slice == 0) {
    const float gate = float(xz[b * xz_strides[0] + (channels + c) * xz_strides[1]]);
    y[at] = T(mamba_fma(float(D[c]), u_value, sum) * mamba_silu(gate));
  }
}
