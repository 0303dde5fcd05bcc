// GPU kernel, in the dialect of ops/gpu: one token of each sequence through a block. Four phases, since each but the
// third needs all that the one before gives:
//
//   1. x and z = in_proj(norm(h)), then the convolution of x        a SIMD group to a row of weights
//   2. dt, B and C = x_proj(u)                                      a group to a row
//   3. dt_proj, the state's step, skip and gate                     four lanes to a channel
//   4. h' = h + out_proj(y)                                         four SIMD groups to a row
//
// With kWhole, all groups work on all sequences and wait for one another between phases; while they do, weights come
// into the cache. Without, group MAMBA_GROUP_X does phases 2 and 3 and the convolution for its own sequence, from `h` =
// xz. The norm is a factor of each row's dot products, so that nobody waits for it.
constexpr int kWarps = kThreads / 32;
constexpr int kBefore = kTaps - 1;
constexpr int kSplit = kWarps < 4 ? kWarps : 4;
constexpr int kRowsAtOnce = kWarps / kSplit;
constexpr int kLine = 64;  // numbers to one prefetch
constexpr int kLoads = kTile == 1 ? 24 : 12;
constexpr float kLog2e = 1.44269504f;
MAMBA_SHARED(float, scratch, kWarps* kTile);
const int batch = ssm_shape[0];
const int channels = A_shape[0];
const int states = A_shape[1];
const int rank = dt_proj_shape[1];
const int width = out_proj_shape[0];
const int thread = MAMBA_THREAD;
const int lane = thread % 32;
const int warp = thread / 32;
const int me = kWhole ? MAMBA_GROUP_X : 0;
const int all = kWhole ? MAMBA_GROUPS_X : 1;
const int first_row = kWhole ? 0 : MAMBA_GROUP_X;
const int last_row = kWhole ? batch : first_row + 1;
// Neighbouring tasks go to different groups.
const int worker = warp * all + me;
const int workers = kWarps * all;

if (kWhole) {
  for (int64_t at = (int64_t(me) * kThreads + thread) * kLine; at < int64_t(rank + 2 * states) * channels;
       at += int64_t(all) * kThreads * kLine) {
    MAMBA_PREFETCH(x_proj + at);
  }
  for (int64_t at = (int64_t(me) * kThreads + thread) * kLine; at < int64_t(width) * channels;
       at += int64_t(all) * kThreads * kLine) {
    MAMBA_PREFETCH(out_proj + at);
  }
  for (int row = worker; row < 2 * channels; row += workers) {
    for (int b = 0; b < batch; b += kTile) {
      float dots[kTile];
      float squares[kTile];
      mamba_dots<kTile, true, kLoads>(in_proj + int64_t(row) * width, h + int64_t(b) * width, norm, width, width,
                                      batch - b, lane, dots, squares);
      MAMBA_UNROLL
      for (int t = 0; t < kTile; ++t) {
        if (lane == t && b + t < batch) {
          const float scale = mamba_rsqrt(squares[t] / float(width) + mamba_float_of_bits(kEpsBits));
          const T value = T(scale * dots[t]);
          if (row < channels) {
            const int64_t at = int64_t(b + t) * kBefore * channels + row;
            const float sum =
                mamba_conv_step<kTaps, T>(conv_weight + int64_t(row) * kTaps, conv + at, conv_after + at, channels,
                                          value, kHasConvBias ? float(conv_bias[row]) : 0.0f, true);
            u[int64_t(b + t) * channels + row] = T(mamba_silu(sum));
          } else {
            z[int64_t(b + t) * channels + (row - channels)] = value;
          }
        }
      }
    }
  }
  MAMBA_GRID_BARRIER(counter);
} else {
  for (int d = thread; d < channels; d += kThreads) {
    const int64_t at = int64_t(first_row) * kBefore * channels + d;
    const float sum = mamba_conv_step<kTaps, T>(conv_weight + int64_t(d) * kTaps, conv + at, conv_after + at, channels,
                                                T(h[first_row * h_strides[0] + d * h_strides[1]]),
                                                kHasConvBias ? float(conv_bias[d]) : 0.0f, true);
    u[int64_t(first_row) * channels + d] = T(mamba_silu(sum));
  }
  MAMBA_DEVICE_BARRIER();
}

const int projected = rank + 2 * states;
if (kWhole) {
  for (int64_t at = (int64_t(me) * kThreads + thread) * kLine; at < int64_t(ahead_shape[0]) * ahead_shape[1];
       at += int64_t(all) * kThreads * kLine) {
    MAMBA_PREFETCH(ahead + at);
  }
  for (int row = me; row < projected; row += all) {
    for (int b = 0; b < batch; ++b) {
      float dot = 0.0f;
      for (int k = thread; k < channels; k += kThreads) {
        dot = mamba_fma(float(x_proj[int64_t(row) * channels + k]), float(u[int64_t(b) * channels + k]), dot);
      }
      dot = mamba_group_sum<kThreads>(dot, thread, scratch);
      if (thread == 0) {
        dt_B_C[b * projected + row] = T(dot);
      }
    }
  }
  MAMBA_GRID_BARRIER(counter);
} else {
  for (int row = warp; row < projected; row += kWarps) {
    float dots[1];
    float squares[1];
    mamba_dots<1, false, 12>(x_proj + int64_t(row) * channels, u + int64_t(first_row) * channels, A, channels, channels,
                             1, lane, dots, squares);
    if (lane == 0) {
      dt_B_C[first_row * projected + row] = T(dots[0]);
    }
  }
  MAMBA_DEVICE_BARRIER();
}

constexpr int kLanes = 4;
constexpr int kChannels = 32 / kLanes;  // of a SIMD group
constexpr int kRanks = 12;
const int slice = lane % kLanes;
const int pieces = (channels + kChannels - 1) / kChannels;
for (int task = worker; task < pieces * (last_row - first_row); task += workers) {
  const int b = first_row + task / pieces;
  const int d = task % pieces * kChannels + lane / kLanes;
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
  MAMBA_UNROLL
  for (int bit = kLanes / 2; bit >= 1; bit /= 2) {
    dot += MAMBA_SHUFFLE_XOR(dot, bit);
  }
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
  MAMBA_UNROLL
  for (int bit = kLanes / 2; bit >= 1; bit /= 2) {
    sum += MAMBA_SHUFFLE_XOR(sum, bit);
  }
  if (real && slice == 0) {
    const float gate = kWhole ? float(z[at]) : float(h[b * h_strides[0] + (channels + c) * h_strides[1]]);
    y[at] = T(mamba_fma(float(D[c]), u_value, sum) * mamba_silu(gate));
  }
}

if (kWhole) {
  MAMBA_GRID_BARRIER(counter);
  const int part = warp % kSplit;
  const int length = (channels + kSplit - 1) / kSplit;
  const int begin = part * length;
  const int count = channels - begin < length ? channels - begin : length;
  for (int base = me * kRowsAtOnce; base < width; base += all * kRowsAtOnce) {
    const int row = base + warp / kSplit < width ? base + warp / kSplit : width - 1;
    for (int b = 0; b < batch; b += kTile) {
      float dots[kTile];
      float squares[kTile];
      mamba_dots<kTile, false, 12>(out_proj + (int64_t(row) * channels + begin), y + (int64_t(b) * channels + begin), A,
                                   count, channels, batch - b, lane, dots, squares);
      MAMBA_UNROLL
      for (int t = 0; t < kTile; ++t) {
        if (lane == 0) {
          scratch[warp * kTile + t] = dots[t];
        }
      }
      MAMBA_BARRIER();
      if (thread < kRowsAtOnce * kTile) {
        const int n = base + thread / kTile;
        const int t = thread % kTile;
        if (n < width && b + t < batch) {
          float dot = 0.0f;
          MAMBA_UNROLL
          for (int i = 0; i < kSplit; ++i) {
            dot += scratch[(thread / kTile * kSplit + i) * kTile + t];
          }
          const int64_t at = int64_t(b + t) * width + n;
          h_after[at] = Residual(float(h[at]) + float(T(dot)));
        }
      }
      MAMBA_BARRIER();
    }
  }
}
