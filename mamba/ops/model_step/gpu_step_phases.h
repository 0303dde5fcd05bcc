// The phases of gpu_step.h.
const auto at_most = [&](int64_t count) { return count < kAhead ? count : int64_t(kAhead); };
mamba_fetch_ahead(in_proj, at_most(int64_t(2) * channels * width), kSize, me + thread * all, all* kThreads);
for (int b = me; b < batch; b += all) {
  const int64_t from = int64_t(int(tokens[b * tokens_strides[0]])) * width;
  float sum = 0.0f;
  for (int i = thread; i < width; i += kThreads) {
    const Residual value = Residual(float(embeddings[from + i]));
    h[int64_t(b) * width + i] = value;
    x[int64_t(b) * width + i] = T(float(value) * float(norm[i]));
    sum = mamba_fma(float(value), float(value), sum);
  }
  sum = mamba_group_sum<kThreads>(sum, thread, stage);
  for (int i = thread; i < squares_apart; i += kThreads) {
    squares[b * squares_apart + i] = i == 0 ? sum : 0.0f;
  }
}
MAMBA_GRID_BARRIER(counter);

for (int layer = 0; layer < layers; ++layer) {
  const int64_t at_layer = int64_t(layer) * channels;
  const int in_tasks = (2 * channels + 8 * kInTiles - 1) / (8 * kInTiles);
  for (int task = me; task < in_tasks * in_passes; task += all) {
    const int column = task % in_tasks * (8 * kInTiles);
    const int row = task / in_tasks * kInRows;
    const int first = row + 16 * kInRowTiles * in_row_part;
    const int at_column = warp % kInChunks * 32 + lane;
    const int n = column + at_column;
    const bool real = at_column < 8 * kInTiles && n < 2 * channels;
    const bool is_u = real && n < channels;
    float sums[kInRowTiles][kInTiles][4];
    float parts[kInRowTiles][kInUnits][kSquares];
    T before[kInRowTiles][kInUnits][kTaps];
    float weight[kTaps];
    const float bias = kHasConvBias && is_u ? float(conv_bias[at_layer + n]) : 0.0f;
    MAMBA_UNROLL
    for (int turn = 0; turn < 2; ++turn) {
      if (turn == kInProductTurn) {
        mamba_tiles<T, kInRowTiles, kInTiles, kHigh, kDots, kWhole, 6>(
            x + int64_t(first) * width, batch - first, in_proj + (2 * at_layer + column) * width, 2 * channels - column,
            width, in_part, kInParts, lane, sums);
      } else {
        MAMBA_UNROLL
        for (int k = 0; k < kTaps; ++k) {
          weight[k] = is_u ? float(conv_weight[(at_layer + n) * kTaps + k]) : 0.0f;
        }
        MAMBA_UNROLL
        for (int m = 0; m < kInRowTiles; ++m) {
          MAMBA_UNROLL
          for (int j = 0; j < kInUnits; ++j) {
            const int r = (warp + j * kWarps) / kInChunks;
            const int b = row + (r / 16 * kInRowTiles + m) * 16 + r % 16;
            const bool there = r < kInUnitRows && b < batch;
            mamba_load_parts(squares + b * squares_apart, there ? squares_apart : 0, lane, parts[m][j]);
            MAMBA_UNROLL
            for (int k = 0; k < kBefore; ++k) {
              before[m][j][k] =
                  there && is_u ? T(conv[((int64_t(layer) * batch + b) * kBefore + k) * channels + n]) : T(0.0f);
            }
          }
        }
      }
    }
    MAMBA_UNROLL
    for (int m = 0; m < kInRowTiles; ++m) {
      mamba_stage_tiles<kInTiles, kStaged>(
          sums[m], stage + (in_part * kInRowParts + in_row_part) * (kStaged * 8 * kInTiles), lane);
      MAMBA_BARRIER();
      MAMBA_UNROLL
      for (int j = 0; j < kInUnits; ++j) {
        const int r = (warp + j * kWarps) / kInChunks;
        const int b = row + (r / 16 * kInRowTiles + m) * 16 + r % 16;
        if (r < kInUnitRows && b < batch) {
          const float scale = mamba_scale_of<kSquares>(parts[m][j], width, eps);
          if (real) {
            const T value = T(scale * mamba_sum_staged<kInParts>(stage + r * (8 * kInTiles) + at_column,
                                                                 kInRowParts * kStaged * 8 * kInTiles));
            if (is_u) {
              const float sum = mamba_conv_step<kTaps, T>(
                  weight, before[m][j], 1, conv_after + ((int64_t(layer) * batch + b) * kBefore * channels + n),
                  channels, value, bias, true);
              u[int64_t(b) * channels + n] = T(mamba_silu(sum));
            } else {
              z[int64_t(b) * channels + (n - channels)] = value;
            }
          }
        }
      }
      MAMBA_BARRIER();
    }
  }
  MAMBA_GRID_BARRIER(counter);

  // What the next layer begins with.
  const auto fetch_next = [&](int fetcher, int fetchers) {
    if (layer + 1 < layers) {
      const int64_t before = int64_t(batch) * channels * kBefore;
      mamba_fetch_ahead(in_proj + 2 * (at_layer + channels) * width, at_most(int64_t(2) * channels * width), kSize,
                        fetcher, fetchers);
      mamba_fetch_ahead(x_proj + (at_layer + channels) * projected, int64_t(projected) * channels, kSize, fetcher,
                        fetchers);
      mamba_fetch_ahead(conv + (layer + 1) * before, before, kSize, fetcher, fetchers);
    } else {
      mamba_fetch_ahead(output, at_most(int64_t(words) * width), kSize, fetcher, fetchers);
    }
  };
  {
    const int column_tasks = (projected + 7) / 8;
    const int tasks = column_tasks * ((batch + 15) / 16);
    if (me >= tasks || tasks >= all) {
      // The groups without work, and there are some but for large batches, ask for what comes next.
      const int idle = tasks < all ? all - tasks : all;
      const int fetcher = (tasks < all ? me - tasks : me) + thread * idle;
      const int fetchers = idle * kThreads;
      const int64_t rows = int64_t(batch) * channels;
      // Of many sequences it takes longer than this phase, and what then reads it is bound by memory anyway.
      if (rows * states * 4 <= kMostStateBytes) {
        mamba_fetch_ahead(ssm + layer * rows * states, rows * states, 4, fetcher, fetchers);
      }
      mamba_fetch_ahead(A + at_layer * states, int64_t(channels) * states, 4, fetcher, fetchers);
      mamba_fetch_ahead(dt_proj + at_layer * rank, int64_t(channels) * rank, kSize, fetcher, fetchers);
      mamba_fetch_ahead(out_proj + at_layer * width, at_most(int64_t(width) * channels), kSize, fetcher, fetchers);
      if (kEarly) {
        fetch_next(fetcher, fetchers);
      }
    }
    for (int task = me; task < tasks; task += all) {
      const int column = task % column_tasks * 8;
      const int row = task / column_tasks * 16;
      float sums[1][1][4];
      mamba_tiles<T, 1, 1, kHigh, kDots, kWhole, 6>(u + int64_t(row) * channels, batch - row,
                                                    x_proj + (int64_t(layer) * projected + column) * channels,
                                                    projected - column, channels, warp, kWarps, lane, sums);
      mamba_stage_tiles<1, kStaged>(sums[0], stage + warp * (8 * kStaged), lane);
      MAMBA_BARRIER();
      for (int i = thread; i < 8 * kStaged; i += kThreads) {
        const int b = row + i / 8;
        const int n = column + i % 8;
        if (b < batch && n < projected) {
          const T value = T(mamba_sum_staged<kWarps>(stage + i, 8 * kStaged));
          if (n < rank) {
            dt_rows[int64_t(b) * rank + n] = value;
          } else {
            B_C[int64_t(b) * 2 * states + (n - rank)] = float(value);
          }
        }
      }
      MAMBA_BARRIER();
    }
  }
  MAMBA_GRID_BARRIER(counter);

  {
    const int slice = lane % 4;
    const int pieces = (channels + 7) / 8;
    for (int task = warp * all + me; task < pieces * ((batch + kSequences - 1) / kSequences); task += kWarps * all) {
      const int first_channel = task % pieces * 8;
      const int row = task / pieces * kSequences;
      const bool real = first_channel + lane / 4 < channels;
      const int c = real ? first_channel + lane / 4 : channels - 1;
      // All that does not wait for dt is on its way before it is needed.
      float state[kSequences][kPer];
      float gate[kSequences];
      float input[kSequences];
      MAMBA_UNROLL
      for (int r = 0; r < kSequences; ++r) {
        const int b = row + r < batch ? row + r : batch - 1;
        mamba_load_states<kPer, kWhole>(ssm + (((int64_t(layer) * batch + b) * channels + c) * states + slice * kPer),
                                        states - slice * kPer, state[r]);
        gate[r] = float(z[int64_t(b) * channels + c]);
        input[r] = float(u[int64_t(b) * channels + c]);
      }
      float rate[kPer];
      mamba_load_states<kPer, kWhole>(A + ((at_layer + c) * states + slice * kPer), states - slice * kPer, rate);
      MAMBA_UNROLL
      for (int i = 0; i < kPer; ++i) {
        rate[i] *= kLog2e;
      }
      const float skip = float(D[at_layer + c]);
      // The product gives a lane row lane / 4, channels 2 * slice and the next.
      float bias[2];
      MAMBA_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int d = first_channel + 2 * slice + i < channels ? first_channel + 2 * slice + i : channels - 1;
        bias[i] = float(dt_bias[at_layer + d]);
      }
      float dts[1][1][4];
      mamba_tiles<T, 1, 1, false, kDots && kSequences == 1, kWhole, 3>(
          dt_rows + int64_t(row) * rank, batch - row < kSequences ? batch - row : kSequences,
          dt_proj + (at_layer + first_channel) * rank, channels - first_channel, rank, 0, 1, lane, dts);
      const float even = mamba_softplus(float(T(dts[0][0][0])) + bias[0]);
      const float odd = mamba_softplus(float(T(dts[0][0][1])) + bias[1]);
      // Nothing is stored before all is loaded: the compiler leaves the order of the two as it is.
      float dots[kSequences];
      MAMBA_UNROLL
      for (int r = 0; r < kSequences; ++r) {
        const int b = row + r < batch ? row + r : batch - 1;
        dots[r] = mamba_step_states<kPer, kWhole>(B_C + int64_t(b) * 2 * states, states, lane,
                                                  mamba_of_tile(even, odd, r, lane), input[r], rate, state[r]);
      }
      MAMBA_UNROLL
      for (int r = 0; r < kSequences; ++r) {
        const int b = row + r;
        if (real && b < batch) {
          mamba_store_states<kPer, kWhole>(
              ssm_after + (((int64_t(layer) * batch + b) * channels + c) * states + slice * kPer),
              states - slice * kPer, state[r]);
          if (slice == 0) {
            y[int64_t(b) * channels + c] = T(mamba_fma(skip, input[r], dots[r]) * mamba_silu(gate[r]));
          }
        }
      }
    }
  }
  if (!kEarly) {  // Once nothing of this phase is held up by it.
    fetch_next(me + thread * all, all * kThreads);
  }
  MAMBA_GRID_BARRIER(counter);

  for (int task = me; task < out_tasks * out_passes; task += all) {
    const int column = task % out_tasks * (8 * kOutTiles);
    const int row = task / out_tasks * kOutRows;
    const int first = row + 16 * kOutRowTiles * out_row_part;
    const int at_column = warp % kOutChunks * 32 + lane;
    const int n = column + at_column;
    const bool real = at_column < 8 * kOutTiles && n < width;
    float sums[kOutRowTiles][kOutTiles][4];
    float before[kOutRowTiles][kOutUnits];
    float factor = 0.0f;
    MAMBA_UNROLL
    for (int turn = 0; turn < 2; ++turn) {
      if (turn == kOutProductTurn) {
        mamba_tiles<T, kOutRowTiles, kOutTiles, kHigh, kDots, kWhole, 6>(
            y + int64_t(first) * channels, batch - first, out_proj + (int64_t(layer) * width + column) * channels,
            width - column, channels, out_part, kOutParts, lane, sums);
      } else {
        if (real) {
          factor = layer + 1 < layers ? float(norm[int64_t(layer + 1) * width + n]) : float(norm_f[n]);
        }
        MAMBA_UNROLL
        for (int m = 0; m < kOutRowTiles; ++m) {
          MAMBA_UNROLL
          for (int j = 0; j < kOutUnits; ++j) {
            const int r = (warp + j * kWarps) / kOutChunks;
            const int b = row + (r / 16 * kOutRowTiles + m) * 16 + r % 16;
            before[m][j] = real && r < kOutUnitRows && b < batch ? float(h[int64_t(b) * width + n]) : 0.0f;
          }
        }
      }
    }
    MAMBA_UNROLL
    for (int m = 0; m < kOutRowTiles; ++m) {
      mamba_stage_tiles<kOutTiles, kStaged>(
          sums[m], stage + (out_part * kOutRowParts + out_row_part) * (kStaged * 8 * kOutTiles), lane);
      MAMBA_BARRIER();
      MAMBA_UNROLL
      for (int j = 0; j < kOutUnits; ++j) {
        const int r = (warp + j * kWarps) / kOutChunks;
        const int b = row + (r / 16 * kOutRowTiles + m) * 16 + r % 16;
        if (r < kOutUnitRows && b < batch) {
          float square = 0.0f;
          if (real) {
            const T dot = T(mamba_sum_staged<kOutParts>(stage + r * (8 * kOutTiles) + at_column,
                                                        kOutRowParts * kStaged * 8 * kOutTiles));
            const Residual value = Residual(before[m][j] + float(dot));
            h[int64_t(b) * width + n] = value;
            x[int64_t(b) * width + n] = T(float(value) * factor);
            square = float(value) * float(value);
          }
          square = mamba_lane_sum<32>(square);
          if (lane == 0) {
            squares[b * squares_apart + column / (8 * kOutTiles) * kOutChunks + warp % kOutChunks] = square;
          }
        }
      }
      MAMBA_BARRIER();
    }
  }
  MAMBA_GRID_BARRIER(counter);
}

{
  // The norm's factors of all rows.
  for (int b = warp; b < batch; b += kWarps) {
    float parts[kSquares];
    mamba_load_parts(squares + b * squares_apart, squares_apart, lane, parts);
    const float scale = mamba_scale_of<kSquares>(parts, width, eps);
    if (lane == 0) {
      stage[b] = scale;
    }
  }
  MAMBA_BARRIER();
  const int row_tasks = (batch + 16 * kWordRowTiles - 1) / (16 * kWordRowTiles);
  const int word_tasks = (words + 8 * kWordTiles - 1) / (8 * kWordTiles);
  for (int task = me * kWarps + warp; task < word_tasks * row_tasks; task += all * kWarps) {
    const int row = task % row_tasks * (16 * kWordRowTiles);
    const int column = task / row_tasks * (8 * kWordTiles);
    float sums[kWordRowTiles][kWordTiles][4];
    mamba_tiles<T, kWordRowTiles, kWordTiles, kHigh, kDots, kWhole, 6>(x + int64_t(row) * width, batch - row,
                                                                       output + int64_t(column) * width, words - column,
                                                                       width, 0, 1, lane, sums);
    MAMBA_UNROLL
    for (int m = 0; m < 2 * kWordRowTiles; ++m) {
      const int b = row + 8 * m + lane / 4;
      const float scale = b < batch ? stage[b] : 0.0f;
      MAMBA_UNROLL
      for (int n = 0; n < kWordTiles; ++n) {
        MAMBA_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int word = column + 8 * n + lane % 4 * 2 + i;
          if (b < batch && word < words) {
            logits[int64_t(b) * words + word] = scale * sums[m / 2][n][m % 2 * 2 + i];
          }
        }
      }
    }
  }
}
