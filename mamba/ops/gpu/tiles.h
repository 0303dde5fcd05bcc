// Products of few rows with many, in tiles of 16 x 8, in the dialect. Not on Metal, where no launch asks for them. A
// line is 16 bytes of numbers. Four neighbouring lanes have a row's four lines of a block; lane / 4 is the row.

// `sum` and the products of a line's numbers with those of another, or with neighbouring numbers.
template <typename T, typename Numbers>
MAMBA_FN float mamba_line_dot(MambaLine<T> line, const Numbers& numbers, float sum) {
  MAMBA_UNROLL
  for (int i = 0; i < 16 / int(sizeof(T)); ++i) {
    sum = mamba_fma(mamba_line_number(line, i), float(numbers[i]), sum);
  }
  return sum;
}
template <typename T>
MAMBA_FN float mamba_line_dot(MambaLine<T> a, MambaLine<T> b, float sum) {
  MAMBA_UNROLL
  for (int i = 0; i < 16 / int(sizeof(T)); ++i) {
    sum = mamba_fma(mamba_line_number(a, i), mamba_line_number(b, i), sum);
  }
  return sum;
}

// The numbers of `rows` rows of x times `columns` rows of weights, `length` long, that start with the given ones:
// sums[m][n] is tile (m, n)'s part of the lane, as mamba_tile_product() has it. Part `part` of `parts` of the blocks of
// the length, of which at most kMostDepth are on their way at once. kHigh: rows 8 to 15 of a tile may be there. kDots:
// x is one row, and its products with the weights are added up by lanes, without tiles. kWhole: lines lie on 16 bytes
// and are whole.
template <typename T, int kRowTiles, int kColumnTiles, bool kHigh, bool kDots, bool kWhole, int kMostDepth,
          typename Rows, typename Weights>
MAMBA_FN void mamba_tiles(Rows x, int rows, Weights weights, int columns, int length, int part, int parts, int lane,
                          MAMBA_PRIVATE float (&sums)[kRowTiles][kColumnTiles][4]) {
  constexpr int kLine = 16 / int(sizeof(T));
  constexpr int kLines = kColumnTiles + kRowTiles * (kHigh ? 2 : 1);
  constexpr int kFit = kLines > 7 ? 1 : 15 / kLines;  // blocks whose lines a lane has registers for
  constexpr int kDepth = kFit < kMostDepth ? kFit : kMostDepth;
  MAMBA_UNROLL
  for (int m = 0; m < kRowTiles; ++m) {
    MAMBA_UNROLL
    for (int n = 0; n < kColumnTiles; ++n) {
      MAMBA_UNROLL
      for (int i = 0; i < 4; ++i) {
        sums[m][n][i] = 0.0f;
      }
    }
  }
  const int row = lane / 4;
  const int blocks = (length + 4 * kLine - 1) / (4 * kLine);
  MAMBA_NO_UNROLL
  for (int block = part; block < blocks; block += kDepth * parts) {
    MambaLine<T> w[kDepth][kColumnTiles];
    MambaLine<T> low[kDepth][kRowTiles];
    MambaLine<T> high[kDepth][kRowTiles];
    MAMBA_UNROLL
    for (int d = 0; d < kDepth; ++d) {
      const int k = (block + d * parts) * 4 * kLine + lane % 4 * kLine;
      MAMBA_UNROLL
      for (int n = 0; n < kColumnTiles; ++n) {
        const int c = 8 * n + row;
        w[d][n] = mamba_weight_line<T, kWhole>(weights + (int64_t(c) * length + k), c < columns ? length - k : 0);
      }
    }
    MAMBA_UNROLL
    for (int d = 0; d < kDepth; ++d) {
      const int k = (block + d * parts) * 4 * kLine + lane % 4 * kLine;
      MAMBA_UNROLL
      for (int m = 0; m < kRowTiles; ++m) {
        const int r = kDots ? 0 : 16 * m + row;
        low[d][m] = mamba_line<T, kWhole>(x + (int64_t(r) * length + k), r < rows ? length - k : 0);
        high[d][m] = kHigh ? mamba_line<T, kWhole>(x + (int64_t(r + 8) * length + k), r + 8 < rows ? length - k : 0)
                           : mamba_no_line<T>();
      }
    }
    MAMBA_UNROLL
    for (int d = 0; d < kDepth; ++d) {
      if (block + d * parts < blocks) {
        MAMBA_UNROLL
        for (int m = 0; m < kRowTiles; ++m) {
          MAMBA_UNROLL
          for (int n = 0; n < kColumnTiles; ++n) {
            if constexpr (kDots) {
              sums[m][n][0] = mamba_line_dot(low[d][m], w[d][n], sums[m][n][0]);
            } else {
              mamba_tile_product(sums[m][n], low[d][m], high[d][m], w[d][n], lane);
            }
          }
        }
      }
    }
  }
  if constexpr (kDots) {
    // Four lanes have parts of a column; of a tile they have columns 2 (lane % 4) and the next.
    MAMBA_UNROLL
    for (int n = 0; n < kColumnTiles; ++n) {
      float dot = sums[0][n][0];
      dot += MAMBA_SHUFFLE_XOR(dot, 1);
      dot += MAMBA_SHUFFLE_XOR(dot, 2);
      sums[0][n][0] = MAMBA_SHUFFLE(dot, 8 * (lane % 4));
      sums[0][n][1] = MAMBA_SHUFFLE(dot, 8 * (lane % 4) + 4);
    }
  }
}

// Leaves a lane's part of the tiles' first kRows rows, all 16 or one, in `stage`: rows of 8 kColumnTiles.
template <int kColumnTiles, int kRows>
MAMBA_FN void mamba_stage_tiles(MAMBA_PRIVATE float (&sums)[kColumnTiles][4], MAMBA_SHARED_PTR(float) stage, int lane) {
  MAMBA_UNROLL
  for (int n = 0; n < kColumnTiles; ++n) {
    MAMBA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8;
      if (row < kRows) {
        stage[row * (8 * kColumnTiles) + 8 * n + lane % 4 * 2 + i % 2] = sums[n][i];
      }
    }
  }
}

// Asks for `numbers` of `size` bytes from `at` on to be brought into the device's cache, as one of `workers` that do
// so.
template <typename From>
MAMBA_FN void mamba_fetch_ahead(From at, int64_t numbers, int64_t size, int worker, int workers) {
  constexpr int64_t kPiece = 2048;
  const int64_t bytes = numbers * size;
  for (int64_t from = worker * kPiece; from < bytes; from += workers * kPiece) {
    MAMBA_PREFETCH(at + from / size, int(bytes - from < kPiece ? bytes - from : kPiece));
  }
}

// kPer numbers of the `left` there are, zeros behind them. kWhole: all are there and lie on 16 bytes.
template <int kPer, bool kWhole, typename From>
MAMBA_FN void mamba_load_states(From from, int left, MAMBA_PRIVATE float (&out)[kPer]) {
  if (kWhole) {
    MAMBA_UNROLL
    for (int i = 0; i < kPer; i += 4) {
      const float4 four = mamba_load4(from + i);
      out[i] = four.x;
      out[i + 1] = four.y;
      out[i + 2] = four.z;
      out[i + 3] = four.w;
    }
  } else {
    MAMBA_UNROLL
    for (int i = 0; i < kPer; ++i) {
      out[i] = i < left ? float(from[i]) : 0.0f;
    }
  }
}

template <int kPer, bool kWhole, typename To>
MAMBA_FN void mamba_store_states(To to, int left, MAMBA_PRIVATE float (&in)[kPer]) {
  if (kWhole) {
    MAMBA_UNROLL
    for (int i = 0; i < kPer; i += 4) {
      mamba_store4(to + i, make_float4(in[i], in[i + 1], in[i + 2], in[i + 3]));
    }
  } else {
    MAMBA_UNROLL
    for (int i = 0; i < kPer; ++i) {
      if (i < left) {
        to[i] = in[i];
      }
    }
  }
}

// One step of kPer of a channel's states, whose others neighbours of four have: what the channel's states times C add
// up to, in each of the four. B and C lie `states` apart; `rate` is A times log2(e).
template <int kPer, bool kWhole, typename From>
MAMBA_FN float mamba_step_states(From B_C, int states, int lane, float dt, float input,
                                 MAMBA_PRIVATE float (&rate)[kPer], MAMBA_PRIVATE float (&state)[kPer]) {
  const int first = lane % 4 * kPer;
  float B[kPer];
  float C[kPer];
  mamba_load_states<kPer, kWhole>(B_C + first, states - first, B);
  mamba_load_states<kPer, kWhole>(B_C + (states + first), states - first, C);
  const float step = dt * input;
  float sum = 0.0f;
  MAMBA_UNROLL
  for (int i = 0; i < kPer; ++i) {
    state[i] = mamba_fma(mamba_exp2(dt * rate[i]), state[i], step * B[i]);
    sum = mamba_fma(C[i], state[i], sum);
  }
  sum += MAMBA_SHUFFLE_XOR(sum, 1);
  sum += MAMBA_SHUFFLE_XOR(sum, 2);
  return sum;
}

// Number (row, lane / 4) of a tile's first eight rows, whose columns 2 (lane % 4) and the next the lanes have in `even`
// and `odd`.
MAMBA_FN float mamba_of_tile(float even, float odd, int row, int lane) {
  const float of_even = MAMBA_SHUFFLE(even, row * 4 + lane / 8);
  const float of_odd = MAMBA_SHUFFLE(odd, row * 4 + lane / 8);
  return lane / 4 % 2 == 0 ? of_even : of_odd;
}

// The sum of what kParts left in shared memory, `apart` from one another.
template <int kParts, typename From>
MAMBA_FN float mamba_sum_staged(From from, int apart) {
  float sum = 0.0f;
  MAMBA_UNROLL
  for (int i = 0; i < kParts; ++i) {
    sum += from[i * apart];
  }
  return sum;
}

// A lane's kCount of `count` parts.
template <int kCount, typename From>
MAMBA_FN void mamba_load_parts(From from, int count, int lane, MAMBA_PRIVATE float (&parts)[kCount]) {
  MAMBA_UNROLL
  for (int i = 0; i < kCount; ++i) {
    parts[i] = lane + 32 * i < count ? float(from[lane + 32 * i]) : 0.0f;
  }
}

// 1 / sqrt(mean + eps) of `width` numbers of whose squares each lane has kCount parts.
template <int kCount>
MAMBA_FN float mamba_scale_of(MAMBA_PRIVATE float (&parts)[kCount], int width, float eps) {
  float sum = parts[0];
  MAMBA_UNROLL
  for (int i = 1; i < kCount; ++i) {
    sum += parts[i];
  }
  sum = mamba_lane_sum<32>(sum);
  return mamba_rsqrt(sum / float(width) + eps);
}
