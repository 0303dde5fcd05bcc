// The phases of gpu_one.h, by the threads that multiply.
if (mine < rows) {
  mamba_post(x_mail, row + mine, h, 1);
}

for (int layer = 0; layer < layers; ++layer) {
  const int round = layer + 1;
  const int64_t at_channel = int64_t(layer) * kChannels + channel;
  float weight[kTaps];
  T before[kTaps];
  MAMBA_UNROLL
  for (int k = 0; k < kTaps; ++k) {
    weight[k] = mine < own ? float(conv_weight[(at_channel + mine) * kTaps + k]) : 0.0f;
    before[k] = mine < own && k < kTaps - 1 ? T(conv[(int64_t(layer) * (kTaps - 1) + k) * kChannels + channel + mine])
                                            : T(0.0f);
  }
  const float bias = kHasConvBias && mine < own ? float(conv_bias[at_channel + mine]) : 0.0f;
  const float dt_add = thread < own ? float(dt_bias[at_channel + thread]) : 0.0f;
  const float skip = thread < own ? float(D[at_channel + thread]) : 0.0f;

  MAMBA_ALL_POSTED();
  const float scale = take_x(norm + int64_t(layer) * kWidth, round);
  stretch = 0;
  float dot = 0.0f;
  dots_of(x, kWidth, kInPieces, own, 0, kMostRows, dot);
  piece += own * kInPieces;
  if (mine < own) {
    const float sum = mamba_conv_step<kTaps, T>(
        weight, before, 1, conv_after + (int64_t(layer) * (kTaps - 1) * kChannels + channel + mine), kChannels,
        T(scale * dot), bias, true);
    const T u = T(mamba_silu(sum));
    mamba_post(u_mail, channel + mine, u, round);
    own_u[mine] = float(u);
  }
  // Rows of z while others are waited for: one or more of a SIMD group for u, the rest for dt.
  const int early = ((own + kWarps - 1) / kWarps + 1) / 2;
  dots_of(x, kWidth, kInPieces, own, 0, early, dot);
  if (thread < own) {
    own_bias[thread] = dt_add;
    own_skip[thread] = skip;
  }

  MAMBA_ALL_POSTED();
  mamba_await(layer_filled, layer % 2);
  if (me < projected) {
    // Each thread has lines of u for itself.
    for (int from = thread * kLine; from < kChannels; from += kThreads * kLine) {
      float u[kLine];
      mamba_take<T, kLine / mamba_taken<T>()>(u_mail, from, mamba_taken<T>(), kChannels, round, u, kPause);
      MAMBA_UNROLL
      for (int k = 0; k < kLine; ++k) {
        y[from + k] = T(u[k]);
      }
    }
    for (int i = 0; me + i * all < projected; ++i) {
      float sum = 0.0f;
      for (int from = thread * kLine; from < kChannels; from += kThreads * kLine) {
        sum = mamba_line_dot(mamba_line<T, true>(y + from, 1), mamba_line<T, true>(x_rows + i * kChannels + from, 1),
                             sum);
      }
      sum = mamba_lane_sum<32>(sum);
      if (lane == 0) {
        parts[i * kWarps + warp] = sum;
      }
    }
    MAMBA_BARRIER_OF(kThreads);
    for (int i = thread; me + i * all < projected; i += kThreads) {
      mamba_post(dt_mail, me + i * all, T(mamba_sum_staged<kWarps>(parts + i * kWarps, 1)), round);
    }
  }
  dots_of(x, kWidth, kInPieces, own, early, kMostRows, dot);
  piece += own * kInPieces;
  if (mine < own) {
    own_z[mine] = float(T(scale * dot));
  }

  MAMBA_ALL_POSTED();
  for (int from = mamba_taken<T>() * thread; from < projected; from += mamba_taken<T>() * kThreads) {
    float values[mamba_taken<T>()];
    mamba_take<T, 1>(dt_mail, from, 0, projected, round, values, kPause);
    MAMBA_UNROLL
    for (int k = 0; k < mamba_taken<T>(); ++k) {
      dt_B_C[from + k] = values[k];
    }
  }
  MAMBA_BARRIER_OF(kThreads);
  stretch = 0;
  // Half a SIMD group to a channel.
  for (int first = 2 * warp; first < own; first += 2 * kWarps) {
    const bool real = first + lane / 16 < own;
    const int c = real ? first + lane / 16 : own - 1;
    float sum = 0.0f;
    for (int from = lane % 16 * kLine; from < kRank; from += 16 * kLine) {
      sum = mamba_line_dot(mamba_line<T, true>(dt_rows + c * kRank + from, 1), dt_B_C + from, sum);
    }
    sum = mamba_lane_sum<16>(sum);
    const float dt = mamba_softplus(float(T(sum)) + own_bias[c]);
    const float input = own_u[c];
    float out = 0.0f;
    for (int n = lane % 16; n < kStates; n += 16) {
      const float state = mamba_fma(mamba_exp2(dt * (kLog2e * own_rates[c * kStates + n])), own_states[c * kStates + n],
                                    dt * input * dt_B_C[kRank + n]);
      out = mamba_fma(dt_B_C[kRank + kStates + n], state, out);
      if (real) {
        ssm_after[(at_channel + c) * kStates + n] = state;
      }
    }
    out = mamba_lane_sum<16>(out);
    if (real && lane % 16 == 0) {
      mamba_post(y_mail, channel + c, T(mamba_fma(own_skip[c], input, out) * mamba_silu(own_z[c])), round);
    }
  }

  MAMBA_ALL_POSTED();
  {
    constexpr int kTaken = mamba_taken<T>();
    constexpr int kPieces = 8 / kTaken;
    for (int from = kTaken * thread; from < kChannels; from += kTaken * kThreads * kPieces) {
      float values[kTaken * kPieces];
      mamba_take<T, kPieces>(y_mail, from, kTaken * kThreads, kChannels, round, values, kPause);
      MAMBA_UNROLL
      for (int k = 0; k < kTaken * kPieces; ++k) {
        const int i = from + k / kTaken * (kTaken * kThreads) + k % kTaken;
        if (i < kChannels) {
          y[i] = T(values[k]);
        }
      }
    }
  }
  MAMBA_BARRIER_OF(kThreads);
  mamba_arrive(layer_emptied);
  stretch = 0;
  dots_of(y, kChannels, kOutPieces, rows, 0, kMostRows, dot);
  piece += rows * kOutPieces;
  if (mine < rows) {
    h = float(Residual(h + float(T(dot))));
    mamba_post(x_mail, row + mine, h, round + 1);
  }
}

{
  MAMBA_ALL_POSTED();
  const float scale = take_x(norm_f, layers + 1);
  stretch = 0;
  const int blocks = (own_words + kWarps - 1) / kWarps;
  for (int first = 0; first < blocks; first += kMostRows) {
    float dot = 0.0f;
    dots_of(x, kWidth, kInPieces, own_words, first, first + kMostRows, dot);
    const int at = mine + first * kWarps;
    if (at < own_words) {
      logits[word + at] = scale * dot;
    }
  }
}
