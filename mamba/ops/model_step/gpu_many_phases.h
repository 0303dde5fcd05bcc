// The phases of gpu_many.h, as those of gpu_step.h.

// At the beginning of a phase: what is worked out from these is worked out there, not kept in registers from layer to
// layer.
const auto begin = [&]() {
  thread = mamba_anew(MAMBA_THREAD);
  lane = thread % 32;
  warp = thread / 32;
};
// Parts of row b's sum of squares, and the norm's factor they make.
const auto load_squares = [&](int b, MAMBA_PRIVATE float (&parts)[kSquares]) {
  mamba_load_parts(squares + b * squares_apart, b < batch ? squares_apart : 0, lane, parts);
};
const auto keep_scale = [&](int r, MAMBA_PRIVATE float (&parts)[kSquares]) {
  const float scale = mamba_scale_of<kSquares>(parts, width, eps);
  if (lane == 0) {
    scales[r] = scale;
  }
};

if (kFillers == 0) {
  free_slots(kSlots);
}
for (int b = me + warp * all; b < batch; b += kWarps * all) {
  const int64_t from = int64_t(int(tokens[b * tokens_strides[0]])) * width;
  float sum = 0.0f;
  for (int i = lane; i < width; i += 32) {
    const Residual value = Residual(float(embeddings[from + i]));
    h[b * width + i] = value;
    x[b * width + i] = T(float(value) * float(norm[i]));
    sum = mamba_fma(float(value), float(value), sum);
  }
  sum = mamba_lane_sum<32>(sum);
  for (int i = lane; i < squares_apart; i += 32) {
    squares[b * squares_apart + i] = i == 0 ? sum : 0.0f;
  }
}
MAMBA_GRID_BARRIER_OF(kThreads, counter);

for (int layer = 0; layer < layers; ++layer) {
  const int64_t at_layer = int64_t(layer) * channels;
  const auto conv_at = conv + at_layer * batch * kBefore;
  const auto conv_to = conv_after + at_layer * batch * kBefore;
  begin();
  for (int task = me; task < in_total; task += all) {
    const int column = task % in_tasks * kInColumns;
    const int row = task / in_tasks * kInRows;
    const int part = warp % kInParts;
    const int row_part = warp / kInParts;
    const int first = row + 16 * row_part;
    const int at_column = warp % kInChunks * 32 + lane;
    const int n = column + at_column;
    const bool real = at_column < kInColumns && n < 2 * channels;
    const bool is_u = real && n < channels;
    float sums[kInTiles][4];
    T before[kInUnits][kTaps];
    MAMBA_ELEMENT(conv_weight) weight[kTaps];
    MAMBA_ELEMENT(conv_bias) bias = MAMBA_ELEMENT(conv_bias)(0.0f);
    float parts[kScales][kSquares];
    MAMBA_UNROLL
    for (int i = 0; i < kScales; ++i) {
      load_squares(row + warp + i * kWarps, parts[i]);
    }
    const auto load_conv = [&]() {
      MAMBA_UNROLL
      for (int k = 0; k < kTaps; ++k) {
        weight[k] = MAMBA_ELEMENT(conv_weight)(0.0f);
        if (is_u) {
          weight[k] = MAMBA_ELEMENT(conv_weight)((conv_weight + at_layer * kTaps)[n * kTaps + k]);
        }
      }
      if (kHasConvBias && is_u) {
        bias = MAMBA_ELEMENT(conv_bias)((conv_bias + at_layer)[n]);
      }
      MAMBA_UNROLL
      for (int j = 0; j < kInUnits; ++j) {
        const int b = row + (warp + j * kWarps) / kInChunks;
        MAMBA_UNROLL
        for (int k = 0; k < kBefore; ++k) {
          before[j][k] = b < batch && b < row + kInRows && is_u
                             ? T(conv_at[b * (kBefore * channels) + k * channels + n])
                             : T(0.0f);
        }
      }
    };
    mamba_ring_product<T, kInTiles, kInLines, kInParts, kInAhead, kSlots, kSlotLines>(
        x + first * width, batch - first, width, part, lane, ring,
        [&]() {
          if (kInUnits <= kEarlyUnits) {
            load_conv();
          }
          MAMBA_UNROLL
          for (int i = 0; i < kScales; ++i) {
            if (warp + i * kWarps < kInRows) {
              keep_scale(warp + i * kWarps, parts[i]);
            }
          }
        },
        free_slots, sums);
    if (kInUnits > kEarlyUnits) {
      load_conv();
    }
    mamba_stage_rows(sums, stage + (part * kInRowParts + row_part) * (16 * kInColumns), lane);
    MAMBA_BARRIER_OF(kThreads);
    MAMBA_UNROLL
    for (int j = 0; j < kInUnits; ++j) {
      const int r = (warp + j * kWarps) / kInChunks;
      const int b = row + r;
      if (real && r < kInRows && b < batch) {
        const T value = T(scales[r] * mamba_sum_staged<kInParts>(stage + mamba_stage_place<kInColumns>(r, at_column),
                                                                 kInRows * kInColumns));
        if (is_u) {
          const float sum = mamba_conv_step<kTaps, T>(weight, before[j], 1, conv_to + (b * (kBefore * channels) + n),
                                                      channels, value, float(bias), true);
          u[b * channels + n] = T(mamba_silu(sum));
        } else {
          z[b * channels + (n - channels)] = value;
        }
      }
    }
    MAMBA_BARRIER_OF(kThreads);
  }
  MAMBA_GRID_BARRIER_OF(kThreads, counter);

  begin();
  {
    const int column_tasks = (projected + 7) / 8;
    const int tasks = column_tasks * ((batch + 15) / 16);
    if (me >= tasks || tasks >= all) {
      // The groups without work, and there are some but for large batches, ask for what comes next.
      const int idle = tasks < all ? all - tasks : all;
      const int fetcher = (tasks < all ? me - tasks : me) + thread * idle;
      const int fetchers = idle * kThreads;
      mamba_fetch_ahead(A + at_layer * states, int64_t(channels) * states, 4, fetcher, fetchers);
      mamba_fetch_ahead(dt_proj + at_layer * rank, int64_t(channels) * rank, kSize, fetcher, fetchers);
      if (layer + 1 < layers) {
        const int64_t before = int64_t(batch) * channels * kBefore;
        mamba_fetch_ahead(x_proj + (at_layer + channels) * projected, int64_t(projected) * channels, kSize, fetcher,
                          fetchers);
        mamba_fetch_ahead(conv + (layer + 1) * before, before, kSize, fetcher, fetchers);
        mamba_fetch_ahead(conv_weight + (at_layer + channels) * kTaps, int64_t(channels) * kTaps,
                          int64_t(sizeof(conv_weight[0])), fetcher, fetchers);
      }
    }
    for (int task = me; task < tasks; task += all) {
      const int column = task % column_tasks * 8;
      const int row = task / column_tasks * 16;
      float sums[1][1][4];
      mamba_tiles<T, 1, 1, true, false, true, 6>(u + row * channels, batch - row,
                                                 x_proj + (int64_t(layer) * projected + column) * channels,
                                                 projected - column, channels, warp, kWarps, lane, sums);
      mamba_stage_tiles<1, 16>(sums[0], stage + warp * (8 * 16), lane);
      MAMBA_BARRIER_OF(kThreads);
      for (int i = thread; i < 8 * 16; i += kThreads) {
        const int b = row + i / 8;
        const int n = column + i % 8;
        if (b < batch && n < projected) {
          const T value = T(mamba_sum_staged<kWarps>(stage + i, 8 * 16));
          if (n < rank) {
            dt_rows[b * rank + n] = value;
          } else {
            B_C[b * (2 * states) + (n - rank)] = float(value);
          }
        }
      }
      MAMBA_BARRIER_OF(kThreads);
    }
  }
  MAMBA_GRID_BARRIER_OF(kThreads, counter);

  const auto states_to = ssm_after + at_layer * batch * states;
  begin();
  for (int turn = 0; turn < state_turns; ++turn) {
    const int task = (turn * kWarps + warp) * all + me;
    MAMBA_SHARED_PTR(MambaLine<T>) held[kStateSlots];
    MAMBA_UNROLL
    for (int i = 0; i < kStateSlots; ++i) {
      held[i] = mamba_next_slot<kSlots, kSlotLines>(ring);
    }
    if (task < state_tasks) {
      const int slice = lane % 4;
      const int first_channel = task % pieces * 8;
      const int row = task / pieces * kSequences;
      const bool real = first_channel + lane / 4 < channels;
      const int c = real ? first_channel + lane / 4 : channels - 1;
      // All that does not wait for dt is on its way before it is needed.
      float state[kSequences][kPer];
      MAMBA_ELEMENT(z) gate[(kSequences + 3) / 4];
      MAMBA_ELEMENT(u) input[kSequences];
      MAMBA_UNROLL
      for (int r = 0; r < kSequences; ++r) {
        const int b = row + r < batch ? row + r : batch - 1;
        input[r] = MAMBA_ELEMENT(u)(u[b * channels + c]);
      }
      // A lane of a channel's four has the gates of each fourth sequence, and makes y of these.
      MAMBA_UNROLL
      for (int j = 0; j < (kSequences + 3) / 4; ++j) {
        const int b = row + 4 * j + slice < batch ? row + 4 * j + slice : batch - 1;
        gate[j] = MAMBA_ELEMENT(z)(z[b * channels + c]);
      }
      float rate[kPer];
      mamba_load_states<kPer, true>(A + at_layer * states + (c * states + slice * kPer), kPer, rate);
      MAMBA_UNROLL
      for (int i = 0; i < kPer; ++i) {
        rate[i] *= kLog2e;
      }
      const float skip = float((D + at_layer)[c]);
      // The product gives a lane row lane / 4, channels 2 * slice and the next.
      float bias[2];
      MAMBA_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int d = first_channel + 2 * slice + i < channels ? first_channel + 2 * slice + i : channels - 1;
        bias[i] = float((dt_bias + at_layer)[d]);
      }
      float dts[1][1][4];
      mamba_tiles<T, 1, 1, false, false, true, 4>(
          dt_rows + row * rank, batch - row < kSequences ? batch - row : kSequences,
          dt_proj + (at_layer + first_channel) * rank, channels - first_channel, rank, 0, 1, lane, dts);
      const float even = mamba_softplus(float(T(dts[0][0][0])) + bias[0]);
      const float odd = mamba_softplus(float(T(dts[0][0][1])) + bias[1]);
      MAMBA_UNROLL
      for (int r = 0; r < kSequences; ++r) {
        const float4 four = mamba_floats_of(held[r / kSlotStates][r % kSlotStates * kThreads + thread]);
        state[r][0] = four.x;
        state[r][1] = four.y;
        state[r][2] = four.z;
        state[r][3] = four.w;
      }
      // Nothing is stored before all is loaded: the compiler leaves the order of the two as it is.
      float dots[kSequences];
      MAMBA_UNROLL
      for (int r = 0; r < kSequences; ++r) {
        const int b = row + r < batch ? row + r : batch - 1;
        const float dot = mamba_step_states<kPer, true>(
            B_C + b * (2 * states), states, lane, mamba_of_tile(even, odd, r, lane), float(input[r]), rate, state[r]);
        dots[r] = mamba_fma(skip, float(input[r]), dot);
      }
      MAMBA_UNROLL
      for (int r = 0; r < kSequences; ++r) {
        const int b = row + r;
        if (real && b < batch) {
          mamba_store_states<kPer, true>(states_to + ((b * channels + c) * states + slice * kPer), kPer, state[r]);
        }
      }
      MAMBA_UNROLL
      for (int j = 0; j < (kSequences + 3) / 4; ++j) {
        float dot = 0.0f;
        MAMBA_UNROLL
        for (int k = 0; k < 4; ++k) {
          if (4 * j + k < kSequences && slice == k) {
            dot = dots[4 * j + k];
          }
        }
        const int r = 4 * j + slice;
        if (real && r < kSequences && row + r < batch) {
          y[(row + r) * channels + c] = T(dot * mamba_silu(float(gate[j])));
        }
      }
    }
    free_slots(kStateSlots);
  }
  MAMBA_GRID_BARRIER_OF(kThreads, counter);

  begin();
  for (int task = me; task < out_total; task += all) {
    const int column = task % out_tasks * kOutColumns;
    const int row = task / out_tasks * kOutRows;
    const int part = warp % kOutParts;
    const int row_part = warp / kOutParts;
    const int first = row + 16 * row_part;
    const int at_column = warp % kOutChunks * 32 + lane;
    const int n = column + at_column;
    const bool real = at_column < kOutColumns && n < width;
    float sums[kOutTiles][4];
    Residual before[kOutUnits];
    float factor = 0.0f;
    mamba_ring_product<T, kOutTiles, kOutLines, kOutParts, kOutAhead, kSlots, kSlotLines>(
        y + first * channels, batch - first, channels, part, lane, ring,
        [&]() {
          MAMBA_UNROLL
          for (int j = 0; j < kOutUnits; ++j) {
            const int r = (warp + j * kWarps) / kOutChunks;
            before[j] = Residual(0.0f);
            if (real && r < kOutRows && row + r < batch) {
              before[j] = Residual(h[(row + r) * width + n]);
            }
          }
          if (real) {
            factor = layer + 1 < layers ? float(norm[int64_t(layer + 1) * width + n]) : float(norm_f[n]);
          }
        },
        free_slots, sums);
    mamba_stage_rows(sums, stage + (part * kOutRowParts + row_part) * (16 * kOutColumns), lane);
    MAMBA_BARRIER_OF(kThreads);
    MAMBA_UNROLL
    for (int j = 0; j < kOutUnits; ++j) {
      const int r = (warp + j * kWarps) / kOutChunks;
      const int b = row + r;
      if (r < kOutRows && b < batch) {
        float square = 0.0f;
        if (real) {
          const T dot = T(mamba_sum_staged<kOutParts>(stage + mamba_stage_place<kOutColumns>(r, at_column),
                                                      kOutRows * kOutColumns));
          const Residual value = Residual(float(before[j]) + float(dot));
          h[b * width + n] = value;
          x[b * width + n] = T(float(value) * factor);
          square = float(value) * float(value);
        }
        square = mamba_lane_sum<32>(square);
        if (lane == 0) {
          squares[b * squares_apart + column / kOutColumns * kOutChunks + warp % kOutChunks] = square;
        }
      }
    }
    MAMBA_BARRIER_OF(kThreads);
  }
  MAMBA_GRID_BARRIER_OF(kThreads, counter);
}

begin();
for (int b = warp; b < batch; b += kWarps) {
  float parts[kSquares];
  load_squares(b, parts);
  keep_scale(b, parts);
}
for (int task = me; task < word_total; task += all) {
  const int row = task % word_rows * kWordRows;
  const int column = task / word_rows * kWordColumns;
  const int part = warp % kWordParts;
  const int row_part = warp / kWordParts;
  const int first = row + 16 * row_part;
  float sums[kWordTiles][4];
  mamba_ring_product<T, kWordTiles, kWordLines, kWordParts, kWordAhead, kSlots, kSlotLines>(
      x + first * width, batch - first, width, part, lane, ring, []() {}, free_slots, sums);
  mamba_stage_rows(sums, stage + (part * kWordRowParts + row_part) * (16 * kWordColumns), lane);
  MAMBA_BARRIER_OF(kThreads);
  for (int i = thread; i < kWordRows * kWordColumns; i += kThreads) {
    const int r = i / kWordColumns;
    const int word = column + i % kWordColumns;
    if (row + r < batch && word < words) {
      logits[(row + r) * words + word] =
          scales[row + r] * mamba_sum_staged<kWordParts>(stage + mamba_stage_place<kWordColumns>(r, i % kWordColumns),
                                                         kWordRows * kWordColumns);
    }
  }
  MAMBA_BARRIER_OF(kThreads);
}
