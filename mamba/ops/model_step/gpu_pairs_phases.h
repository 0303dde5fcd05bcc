// The phases of gpu_pairs.h, by the threads that multiply.
{
  const int out = pair * kOwn + out_of();
  const int row = half * kOwn + out_row_of();
  const int64_t from = row < batch ? int64_t(int(tokens[row * tokens_strides[0]])) * kWidth + out : 0;
  h[0] = Residual(row < batch ? float(embeddings[from]) : 0.0f);
  h[1] = Residual(row < batch ? float(embeddings[from + 1]) : 0.0f);
  make_x(float(norm[out]), float(norm[out + 1]));
}

for (int layer = 0; layer < layers; ++layer) {
  const int parity = layer % 2;
  begin();
  {
    float sums[32];
    multiply_in(sums);
    begin();
    const int channel = me * kOwn + in_four * 8 + lane / 4;
    const int64_t at_channel = int64_t(layer) * kChannels + channel;
    const int64_t at_conv = int64_t(layer) * batch * kBefore * kChannels + channel;
    // What the convolution needs is on its way while the parts are.
    T before[4][kBefore];
    MAMBA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int row = column_of(i / 2) + i % 2;
      MAMBA_UNROLL
      for (int k = 0; k < kBefore; ++k) {
        before[i][k] = row < batch ? T(conv[at_conv + (row * kBefore + k) * kChannels]) : T(0.0f);
      }
    }
    MAMBA_ELEMENT(conv_weight) weight[kTaps];
    MAMBA_UNROLL
    for (int k = 0; k < kTaps; ++k) {
      weight[k] = MAMBA_ELEMENT(conv_weight)(conv_weight[at_channel * kTaps + k]);
    }
    MAMBA_ELEMENT(conv_bias) bias = MAMBA_ELEMENT(conv_bias)(0.0f);
    if (kHasConvBias) {
      bias = MAMBA_ELEMENT(conv_bias)(conv_bias[at_channel]);
    }
    make_scales(parity);
    give_in(sums, parity);
    mamba_await(in_there, parity);
    T newest[4];
    MAMBA_UNROLL
    for (int i = 0; i < 2; ++i) {
      float xz[4];
      take_in(i, xz);
      const int own = in_four * 8 + lane / 4;
      const int row = column_of(i);
      T u[2];
      MAMBA_UNROLL
      for (int j = 0; j < 2; ++j) {
        newest[2 * i + j] = T(scales[row + j] * xz[j]);
        float sum = mamba_fma(float(weight[kTaps - 1]), float(newest[2 * i + j]), float(bias));
        MAMBA_UNROLL
        for (int k = 0; k < kBefore; ++k) {
          sum = mamba_fma(float(weight[k]), float(before[2 * i + j][k]), sum);
        }
        u[j] = T(mamba_silu(sum));
        own_z[mamba_block_place(row + j, own)] = T(scales[row + j] * xz[2 + j]);
      }
      // Neighbours have the next channel: each makes two channels' numbers of one row.
      const bool odd = lane / 4 % 2 == 1;
      const float other = MAMBA_SHUFFLE_XOR(odd ? float(u[0]) : float(u[1]), 4);
      const T first = odd ? T(other) : u[0];
      const T second = odd ? u[1] : T(other);
      const auto to = own_u + half * kBlock + mamba_block_place(row + (odd ? 1 : 0), own / 2 * 2);
      to[0] = first;
      to[1] = second;
      mamba_hand2(to, first, second, u_there);
    }
    if (thread == 0) {
      mamba_expect(u_there, 2 * kBlock);
    }
    MAMBA_SHARED_FENCE();
    tell(u_there);
    MAMBA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int row = column_of(i / 2) + i % 2;
      if (row < batch) {
        const auto to = conv_after + (at_conv + row * kBefore * kChannels);
        to[0] = before[i][1];
        to[kChannels] = before[i][2];
        to[2 * kChannels] = newest[i];
      }
    }
  }
  mamba_await(u_there, parity);

  begin();
  if (four < 2) {
    MAMBA_SHARED_FENCE();
    await_slot(slot);
    float sums[kColumns / 4];
    MAMBA_UNROLL
    for (int i = 0; i < kColumns / 4; ++i) {
      sums[i] = 0.0f;
    }
    mamba_begin_products();
    MAMBA_UNROLL
    for (int k = 0; k < 2; ++k) {
      mamba_product_with_weights(sums, own_u + k * kBlock, slots + slot % kSlots * kSlot + four * (kColumns / 2 * 64),
                                 k);
    }
    mamba_end_products();
    mamba_await_products<0>(sums);
    MAMBA_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int row = 16 * in_four + 8 * i + lane / 4;
      const auto to = parts_all + (((half * kRows + row) * kPairs + pair) * kColumns + four * (kColumns / 2));
      MAMBA_UNROLL
      for (int j = 0; j < kColumns / 16; ++j) {
        mamba_store2(to + (8 * j + lane % 4 * 2), sums[4 * j + 2 * i], sums[4 * j + 2 * i + 1]);
      }
    }
    mamba_arrive(parts_made);
    tell(freed + slot % kSlots);
  } else {
    await_slot(slot);
    tell(freed + slot % kSlots);
    // Two neighbours share a sum.
    mamba_await(parts_there, parity);
    const int left_rows = kRows - pair * kSummed;
    const int count = (left_rows < kSummed ? (left_rows < 0 ? 0 : left_rows) : kSummed) * kColumns;
    const auto parts = (MAMBA_SHARED_PTR(float))left;
    for (int from = 0; from < count; from += kThreads / 4) {
      const int i = from + thread % (kThreads / 2) / 2;
      float sum = 0.0f;
      if (i < count) {
        const int at = i / kColumns * (kPairs * kColumns) + i % kColumns;
        MAMBA_UNROLL
        for (int part = 0; part < kPairs; part += 2) {
          sum += parts[at + (part + lane % 2) * kColumns];
        }
      }
      sum += MAMBA_SHUFFLE_XOR(sum, 1);
      const int row = pair * kSummed + i / kColumns;
      const int column = half * kColumns + i % kColumns;
      if (i < count && lane % 2 == 0) {
        if (column < kRank) {
          dt_all[column / 32 * kBlock + mamba_block_place(row, column % 32)] = T(sum);
        } else {
          B_C_all[row * (2 * kStates) + column - kRank] = float(T(sum));
        }
      }
    }
    MAMBA_SHARED_FENCE();
    mamba_arrive(sums_made);
  }
  ++slot;

  begin();
  const auto dts = (MAMBA_SHARED_PTR(float))(left + kDtPlace);
  float rate[kStates];
  float skip;
  {
    await_slot(slot);
    const auto weights = slots + slot % kSlots * kSlot;
    const auto rates = (MAMBA_SHARED_PTR(float))(weights + kOwn * kWideRank);
    mamba_await(sums_there, parity);
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mamba_begin_products();
    MAMBA_UNROLL
    for (int k = 0; k < kRank / 32; ++k) {
      mamba_product_with_weights(sums, left + kSumsPlace + k * kBlock, weights + k / 2 * (kOwn * 64) + four * (8 * 64),
                                 k % 2);
    }
    mamba_end_products();
    mamba_await_products<0>(sums);
    MAMBA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int row = 16 * in_four + i / 2 * 8 + lane / 4;
      const int own = four * 8 + lane % 4 * 2 + i % 2;
      dts[row * kOwn + own] = mamba_softplus(float(T(sums[i])) + rates[kOwn * kStates + own]);
    }
    // Lanes begin at other states than their neighbours, so that what they read at once lies in different banks.
    MAMBA_UNROLL
    for (int j = 0; j < 4; ++j) {
      const float4 of = mamba_load4(rates + (lane * kStates + (j + lane / 2) % 4 * 4));
      rate[4 * j] = of.x * kLog2e;
      rate[4 * j + 1] = of.y * kLog2e;
      rate[4 * j + 2] = of.z * kLog2e;
      rate[4 * j + 3] = of.w * kLog2e;
    }
    skip = rates[kOwn * (kStates + 1) + lane];
    MAMBA_BARRIER_OF(kThreads);
    tell(freed + slot % kSlots);
  }
  ++slot;
  // A SIMD group has rows of each second slot, a lane a channel.
  MAMBA_NO_UNROLL
  for (int i = 0; i < kStateSlots / 2; ++i) {
    const int at = slot + 2 * i + warp / 8;
    const int row = (2 * i + warp / 8) * kSlotRows + warp % 8;
    await_slot(at);
    const auto states = (MAMBA_SHARED_PTR(float))(slots + at % kSlots * kSlot) + warp % 8 * (kOwn * kStates);
    if (row < batch) {
      const auto B_C = (MAMBA_SHARED_PTR(float))(left + kSumsPlace + kRows * kRank) + row * (2 * kStates);
      const float dt = dts[row * kOwn + lane];
      const float u = float(own_u[half * kBlock + mamba_block_place(row, lane)]);
      const int z_at = mamba_block_place(row, lane);
      const float gate = mamba_silu(float(own_z[z_at]));
      const float step = dt * u;
      float sum = skip * u;
      MAMBA_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int n = (j + lane / 2) % 4 * 4;
        const auto of_lane = states + (lane * kStates + n);
        float4 state = mamba_load4(of_lane);
        const float4 B = mamba_load4(B_C + n);
        const float4 C = mamba_load4(B_C + kStates + n);
        state.x = mamba_fma(mamba_exp2(dt * rate[4 * j]), state.x, step * B.x);
        state.y = mamba_fma(mamba_exp2(dt * rate[4 * j + 1]), state.y, step * B.y);
        state.z = mamba_fma(mamba_exp2(dt * rate[4 * j + 2]), state.z, step * B.z);
        state.w = mamba_fma(mamba_exp2(dt * rate[4 * j + 3]), state.w, step * B.w);
        sum = mamba_fma(C.x, state.x, sum);
        sum = mamba_fma(C.y, state.y, sum);
        sum = mamba_fma(C.z, state.z, sum);
        sum = mamba_fma(C.w, state.w, sum);
        mamba_keep4(of_lane, state.x, state.y, state.z, state.w);
      }
      own_z[z_at] = T(sum * gate);
    }
    MAMBA_SHARED_FENCE();
    MAMBA_SIMD_BARRIER();
    if (lane == 0) {
      if (row < batch) {
        mamba_send(ssm_after + ((int64_t(layer) * batch + row) * kChannels + me * kOwn) * kStates, states,
                   kOwn * kStates);
      }
      mamba_end_sends();
    }
  }
  tell(y_made);
  {
    // Lanes other than the first have sent nothing. Twice each, for the SIMD groups that have rows of other slots.
    const auto free_states = [&](int i) {
      const auto arrival = freed + (slot + 2 * i + warp / 8) % kSlots;
      tell(arrival);
      mamba_arrive(arrival);
    };
    mamba_await_sources<3>();
    free_states(0);
    mamba_await_sources<2>();
    free_states(1);
    mamba_await_sources<1>();
    free_states(2);
    mamba_await_sources<0>();
    free_states(3);
  }
  slot += kStateSlots;

  begin();
  {
    const int out = pair * kOwn + out_of();
    const bool last = layer + 1 == layers;
    const float first = last ? float(norm_f[out]) : float(norm[int64_t(layer + 1) * kWidth + out]);
    const float second = last ? float(norm_f[out + 1]) : float(norm[int64_t(layer + 1) * kWidth + out + 1]);
    float sums[16];
    MAMBA_UNROLL
    for (int i = 0; i < 16; ++i) {
      sums[i] = 0.0f;
    }
    MAMBA_NO_UNROLL
    for (int i = 0; i < kOutUnits; ++i) {
      await_unit(unit);
      if (i % 2 == 0) {
        await_slot(slot);
      }
      mamba_begin_products();
      mamba_product_with_weights(sums, left + unit % kUnits * kSlot + four * kBlock,
                                 slots + slot % kSlots * kSlot + (i % 2 * 2 + four / 2) * (kOwn * 64), four % 2);
      mamba_end_products();
      if (i > 0) {
        mamba_await_products<1>(sums);
        tell(unit_freed + (unit - 1) % kUnits);
        if (i % 2 == 0) {
          tell(freed + (slot - 1) % kSlots);
        }
      }
      ++unit;
      slot += i % 2;
    }
    mamba_await_products<0>(sums);
    tell(unit_freed + (unit - 1) % kUnits);
    tell(freed + (slot - 1) % kSlots);
    meet_partner(out_done, parity);
    // Eight parts, each two SIMD groups' sums, to the group whose half of the rows it is.
    const auto to = (MAMBA_SHARED_PTR(float))left + (((half * 4 + four) * 2 + in_four % 2) * 4 * 32 + lane) * 4;
    if (thread == 0) {
      mamba_expect(out_there, kWarps / 2 * 4 * 512);
    }
    if (in_four / 2 == half) {
      MAMBA_UNROLL
      for (int j = 0; j < 4; ++j) {
        mamba_keep4(to + j * 128, sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]);
      }
      tell(out_there);
    } else {
      MAMBA_UNROLL
      for (int j = 0; j < 4; ++j) {
        mamba_hand4(to + j * 128, sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3], out_there);
      }
    }
    mamba_await(out_there, parity);
    float dots[2] = {0.0f, 0.0f};
    MAMBA_UNROLL
    for (int part = 0; part < 8; ++part) {
      const auto from =
          (MAMBA_SHARED_PTR(float))left + ((((part * 2 + warp / 8) * 4 + warp / 2 % 4) * 32 + lane) * 4 + warp % 2 * 2);
      dots[0] += from[0];
      dots[1] += from[1];
    }
    h[0] = Residual(float(h[0]) + float(T(dots[0])));
    h[1] = Residual(float(h[1]) + float(T(dots[1])));
    make_x(first, second);
  }
}

for (int turn = 0; turn < word_turns; ++turn) {
  const int parity = (layers + turn) % 2;
  begin();
  float sums[32];
  multiply_in(sums);
  if (turn == 0) {
    make_scales(parity);
  }
  give_in(sums, parity);
  mamba_await(in_there, parity);
  const int word = (turn * kPairs + pair) * 128 + half * 64 + in_four * 16 + lane / 4;
  MAMBA_UNROLL
  for (int i = 0; i < 2; ++i) {
    float dots[4];
    take_in(i, dots);
    MAMBA_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int row = column_of(i) + j % 2;
      const int n = word + j / 2 * 8;
      if (row < batch && n < words) {
        logits[int64_t(row) * words + n] = scales[row] * dots[j];
      }
    }
  }
  MAMBA_SHARED_FENCE();
  tell(x_made);
}
if (lane == 0) {
  mamba_await_sources<0>();
}
