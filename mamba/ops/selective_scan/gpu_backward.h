// GPU kernel, in the dialect of ops/gpu: the gradients of one chunk of each sequence. After gpu_backward_begin.h;
// shares its ways with gpu_forward.h, and walks through the chunk from its end.
//
// A segment starts from its kept state; the states before its tiles are computed once and lie in shared memory, those
// within a tile are computed again and lie in registers while the tile is walked back through. So each decay is
// computed at most three times and no state is stored for more than one position in kSegment.
//
// The gradients of B and C are sums over channels. The lanes of a SIMD group hand partial sums to each other until each
// lane has its share, groups leave theirs, a row of 2 N for each position, to be summed afterwards (gpu_sum.h): no
// atomics, the same bits every time.
//
// Memory: a segment's kept states have served their purpose once it is done, and are as large as its shares where a
// group has 64 channels. So the shares of a segment go to the cell of the one behind it, those of a chunk's last
// segment to `last` or, without chunks, to `spare`, and what has no room in a cell to `more` (B, segments, blocks,
// rows, 2 N). The chunk's part of A's gradient goes to the cell of its first segment, those of D and delta_bias to
// `part_D` (B, chunks, 2, D).
//
// `last` is the gradient of the state after the chunk: cells (B, chunks), or with one chunk (B, D, N); without kHasLast
// it is 0. kGiveY: the forward pass' output once more, in `y`.
MAMBA_NO_UNROLL
for (int s = end_segment - 1; s >= first_segment; --s) {
  const int segment = s * kSegment;
  const int positions = length - segment < kSegment ? length - segment : kSegment;
  const int tiles = (positions + kSteps - 1) / kSteps;
  // What the walk back starts with, and what the first states need: loaded ahead, as they are.
  T next_u[kOwn];
  T next_delta[kOwn];
  T next_z[kOwn];
  T next_gy[kOwn];
  T ahead_u[kOwn];
  T ahead_delta[kOwn];
  const int last_tile = (tiles - 1) * kSteps;
  u_at += int64_t(-kSegment) * u_step;
  delta_at += int64_t(-kSegment) * delta_step;
  z_at += int64_t(-kSegment) * z_step;
  gy_at += int64_t(-kSegment) * gy_step;
  const int64_t out_row = (int64_t(b) * length + segment) * channels;
  const auto gu_row = gu + out_row;
  const auto gdelta_row = gdelta + out_row;
  const auto gz_row = gz + (kHasZ ? out_row : 0);
  const auto y_row = y + (kGiveY ? out_row : 0);
  MAMBA_UNROLL
  for (int j = 0; j < kOwn; ++j) {
    const int t = last_tile + j;
    const bool there = own + t < positions;
    next_u[j] = there ? T(u_at[t * u_step]) : T(0.0f);
    next_delta[j] = there ? T(delta_at[t * delta_step]) : T(0.0f);
    next_z[j] = there && kHasZ ? T(z_at[t * z_step]) : T(0.0f);
    next_gy[j] = there ? T(gy_at[t * gy_step]) : T(0.0f);
    ahead_u[j] = tiles > 1 ? T(u_at[j * u_step]) : T(0.0f);
    ahead_delta[j] = tiles > 1 ? T(delta_at[j * delta_step]) : T(0.0f);
  }
  const auto shares = s + 1 < end_segment ? cells + (s + 1) * row_of_cells : spare_cell;
  const auto more_at = more_shares + int64_t(s) * blocks * ((kSegment - kInCell) * 2 * states);
  const auto cell_at = cells + (s * row_of_cells + thread / kLanes);
  const auto low_at = cell_at + low_n * kBlock;
  const auto high_at = cell_at + high_n * kBlock;
  float h[kM];
  MAMBA_UNROLL
  for (int i = 0; i < kM; ++i) {
    const int n = (i < kHalf ? low_n : high_n) + i;
    h[i] = real && n < states ? float((i < kHalf ? low_at : high_at)[i * kBlock]) : 0.0f;
  }
  MAMBA_BARRIER();
  MAMBA_UNROLL
  for (int column = 0; column < kPadded; column += kColumns) {
    const int n = column + thread % kColumns;
    const int row = thread / kColumns;
    const auto B_at = B + (b * B_strides[0] + (segment + row) * B_strides[1] + n * B_strides[2]);
    const int B_step = int(B_strides[1]);
    const auto C_at = C + (b * C_strides[0] + (segment + row) * C_strides[1] + n * C_strides[2]);
    const int C_step = int(C_strides[1]);
    MAMBA_UNROLL
    for (int r = 0; r < kSegment; r += kRows) {
      const int t = segment + row + r;
      const bool inside = (!kHasSpans || t >= begin) && t < end && n < states;
      const float B_here = inside ? float(B_at[r * B_step]) : 0.0f;
      const float C_here = inside ? float(C_at[r * C_step]) : 0.0f;
      if (kSegment % kRows == 0 || row + r < kSegment) {
        flat_B[(row + r) * kPadded + n] = B_here;
        flat_C[(row + r) * kPadded + n] = C_here;
        if (kCopies == 2) {
          flat_B[(kSegment + row + r) * kPadded + (n ^ kHalf)] = B_here;
          flat_C[(kSegment + row + r) * kPadded + (n ^ kHalf)] = C_here;
        }
      }
    }
  }
  MAMBA_BARRIER();
  MAMBA_NO_UNROLL
  for (int tile = 0; tile + 1 < tiles; ++tile) {
    const int t0 = segment + tile * kSteps;
    float own_dt[kOwn];
    float own_x[kOwn];
    MAMBA_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const int t = t0 + slice * kOwn + j;
      const bool inside = real && (!kHasSpans || t >= begin) && t < end;
      const float raw = float(ahead_delta[j]) + bias;
      const float dt = kSoftplus ? mamba_softplus(raw) : raw;
      own_dt[j] = inside ? dt : 0.0f;
      own_x[j] = inside ? dt * float(ahead_u[j]) : 0.0f;
    }
    if (tile + 2 < tiles) {
      MAMBA_UNROLL
      for (int j = 0; j < kOwn; ++j) {
        const int t = (tile + 1) * kSteps + j;
        ahead_u[j] = T(u_at[t * u_step]);
        ahead_delta[j] = T(delta_at[t * delta_step]);
      }
    }
    MAMBA_UNROLL
    for (int k = 0; k < kSteps; ++k) {
      const int source = lane - slice + k / kOwn;
      const float dt = kLanes == 1 ? own_dt[k % kOwn] : MAMBA_SHUFFLE(own_dt[k % kOwn], source);
      const float x = kLanes == 1 ? own_x[k % kOwn] : MAMBA_SHUFFLE(own_x[k % kOwn], source);
      bool reset = false;
      if (kHasResets) {
        const int t = t0 + k;
        reset = t >= begin && t < end && int(resets[int64_t(b) * length + t]) != 0;
      }
      MAMBA_UNROLL
      for (int q = 0; q < kQuads; ++q) {
        const float4 B4 = tile_B[(tile * kSteps + k) * kRow + (2 * q < kQuads ? low_q : high_q) + q];
        const float w[4] = {B4.x, B4.y, B4.z, B4.w};
        MAMBA_UNROLL
        for (int e = 0; e < 4; ++e) {
          const int i = 4 * q + e;
          h[i] = mamba_fma(mamba_exp2(dt * A2[i]), reset ? 0.0f : h[i], x * w[e]);
        }
      }
    }
    const int to = kTight && tile + 2 == tiles ? 0 : kBuffers * kShares + tile * kM * kThreads;
    MAMBA_UNROLL
    for (int i = 0; i < kM; ++i) {
      work[to + i * kThreads + thread] = h[i];
    }
  }

  MAMBA_NO_UNROLL
  for (int tile = tiles - 1; tile >= 0; --tile) {
    const int t0 = segment + tile * kSteps;
    const int buffer = kBuffers == 2 ? tile % 2 * kShares : 0;
    float own_u[kOwn];
    float own_raw[kOwn];
    float own_dt[kOwn];
    float own_x[kOwn];
    float own_z[kOwn];
    float own_gy[kOwn];    // of the gated output
    float own_gate[kOwn];  // silu(z)
    float own_g[kOwn];     // of what is gated
    MAMBA_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const int t = t0 + slice * kOwn + j;
      const bool inside = real && (!kHasSpans || t >= begin) && t < end;
      own_u[j] = inside ? float(next_u[j]) : 0.0f;
      own_raw[j] = inside ? float(next_delta[j]) + bias : 0.0f;
      own_z[j] = inside && kHasZ ? float(next_z[j]) : 0.0f;
      own_gy[j] = inside ? float(next_gy[j]) : 0.0f;
      const float dt = kSoftplus ? mamba_softplus(own_raw[j]) : own_raw[j];
      own_dt[j] = inside ? dt : 0.0f;
      own_x[j] = own_dt[j] * own_u[j];
      own_gate[j] = kHasZ ? mamba_sigmoid(own_z[j]) : 1.0f;
      own_g[j] = kHasZ ? own_gy[j] * own_z[j] * own_gate[j] : own_gy[j];
    }
    if (tile > 0) {
      MAMBA_UNROLL
      for (int j = 0; j < kOwn; ++j) {
        const int t = (tile - 1) * kSteps + j;
        next_u[j] = T(u_at[t * u_step]);
        next_delta[j] = T(delta_at[t * delta_step]);
        next_gy[j] = T(gy_at[t * gy_step]);
        if (kHasZ) {
          next_z[j] = T(z_at[t * z_step]);
        }
      }
    }
    float before[kSteps][kM];
    float all_dt[kSteps];
    float all_x[kSteps];
    bool all_reset[kSteps];
    if (tile > 0) {
      const bool amid_sums = kTight && tile + 1 == tiles;
      const int from = amid_sums ? 0 : kBuffers * kShares + (tile - 1) * kM * kThreads;
      MAMBA_UNROLL
      for (int i = 0; i < kM; ++i) {
        h[i] = work[from + i * kThreads + thread];
      }
      if (amid_sums) {
        MAMBA_BARRIER();  // before sums come there
      }
    } else {
      MAMBA_UNROLL
      for (int i = 0; i < kM; ++i) {
        const int n = (i < kHalf ? low_n : high_n) + i;
        h[i] = real && n < states ? float((i < kHalf ? low_at : high_at)[i * kBlock]) : 0.0f;
      }
    }
    MAMBA_UNROLL
    for (int k = 0; k < kSteps; ++k) {
      const int source = lane - slice + k / kOwn;
      all_dt[k] = kLanes == 1 ? own_dt[k % kOwn] : MAMBA_SHUFFLE(own_dt[k % kOwn], source);
      all_x[k] = kLanes == 1 ? own_x[k % kOwn] : MAMBA_SHUFFLE(own_x[k % kOwn], source);
      all_reset[k] = false;
      if (kHasResets) {
        const int t = t0 + k;
        all_reset[k] = t >= begin && t < end && int(resets[int64_t(b) * length + t]) != 0;
      }
      MAMBA_UNROLL
      for (int q = 0; q < kQuads; ++q) {
        const float4 B4 = tile_B[(tile * kSteps + k) * kRow + (2 * q < kQuads ? low_q : high_q) + q];
        const float w[4] = {B4.x, B4.y, B4.z, B4.w};
        MAMBA_UNROLL
        for (int e = 0; e < 4; ++e) {
          const int i = 4 * q + e;
          before[k][i] = all_reset[k] ? 0.0f : h[i];
          if (k + 1 < kSteps) {
            h[i] = mamba_fma(mamba_exp2(all_dt[k] * A2[i]), before[k][i], all_x[k] * w[e]);
          }
        }
      }
    }

    float sum_y[kSteps];
    float sum_gx[kSteps];
    float sum_gdt[kSteps];
    MAMBA_UNROLL
    for (int turn = 0; turn < kSteps; ++turn) {
      const int k = kSteps - 1 - turn;
      const int source = lane - slice + k / kOwn;
      const float g = kLanes == 1 ? own_g[k % kOwn] : MAMBA_SHUFFLE(own_g[k % kOwn], source);
      float y_k = 0.0f;
      float gx_k = 0.0f;
      float gdt_k = 0.0f;
      float share[2 * kM];
      MAMBA_UNROLL
      for (int q = 0; q < kQuads; ++q) {
        const float4 B4 = tile_B[(tile * kSteps + k) * kRow + (2 * q < kQuads ? low_q : high_q) + q];
        const float4 C4 = tile_C[(tile * kSteps + k) * kRow + (2 * q < kQuads ? low_q : high_q) + q];
        const float wB[4] = {B4.x, B4.y, B4.z, B4.w};
        const float wC[4] = {C4.x, C4.y, C4.z, C4.w};
        MAMBA_UNROLL
        for (int e = 0; e < 4; ++e) {
          const int i = 4 * q + e;
          const float decay = mamba_exp2(all_dt[k] * A2[i]);
          const float decayed = decay * before[k][i];
          const bool have = kM == 4 && k + 1 < kSteps && !kHasResets;  // more would not fit into registers
          const float after = have ? before[k + 1 < kSteps ? k + 1 : k][i] : mamba_fma(all_x[k], wB[e], decayed);
          const float gradient = mamba_fma(wC[e], g, gh[i]);
          const float gA_dt = gradient * decayed;
          y_k = mamba_fma(wC[e], after, y_k);
          gx_k = mamba_fma(gradient, wB[e], gx_k);
          gdt_k = mamba_fma(gA_dt, A2[i], gdt_k);
          gA[i] = mamba_fma(gA_dt, all_dt[k], gA[i]);
          const int at = i / kHalf * kM + i % kHalf;
          share[at] = gradient * all_x[k];
          share[at + kHalf] = g * after;
          gh[i] = all_reset[k] ? 0.0f : decay * gradient;
        }
      }
      sum_y[k] = y_k;
      sum_gx[k] = gx_k;
      sum_gdt[k] = gdt_k;
      float half[kM];
      MAMBA_UNROLL
      for (int i = 0; i < kM; ++i) {
        half[i] = share[i] + MAMBA_SHUFFLE_XOR(share[kM + i], 16);
      }
      mamba_sum_and_spread<kM, kLanes, 8>(half, lane);
      const int first = mamba_spread_first<kM, kLanes, 8>(lane);
      MAMBA_UNROLL
      for (int i = 0; i < kSpread; ++i) {
        const int v = first + i;
        const int column = low_n + (v < kHalf ? v : kPadded + v - kHalf);
        work[buffer + (simd * kSteps + k) * kWide + column] = half[i];
      }
    }
    mamba_sum_and_split<kSteps, kLanes>(sum_y, lane);
    mamba_sum_and_split<kSteps, kLanes>(sum_gx, lane);
    mamba_sum_and_split<kSteps, kLanes>(sum_gdt, lane);
    MAMBA_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const int t = t0 + slice * kOwn + j;
      const bool inside = (!kHasSpans || t >= begin) && t < end;
      const float gdt = mamba_fma(own_u[j], sum_gx[j], kLn2 * sum_gdt[j]);
      const float graw = inside ? (kSoftplus ? gdt * mamba_sigmoid(own_raw[j]) : gdt) : 0.0f;
      if (real && t < length) {
        const int out_at = out_own + (tile * kSteps + j) * channels;
        gu_row[out_at] = T(inside ? mamba_fma(own_dt[j], sum_gx[j], skip * own_g[j]) : 0.0f);
        gdelta_row[out_at] = T(graw);
        if (kGiveY) {
          const float out = inside ? mamba_fma(skip, own_u[j], sum_y[j]) : 0.0f;
          y_row[out_at] = T(kHasZ ? out * own_z[j] * own_gate[j] : out);
        }
        if (kHasZ) {
          const float slope = own_gate[j] * mamba_fma(own_z[j], 1.0f - own_gate[j], 1.0f);
          gz_row[out_at] = T(inside ? own_gy[j] * mamba_fma(skip, own_u[j], sum_y[j]) * slope : 0.0f);
        }
      }
      sum_gD = mamba_fma(own_g[j], own_u[j], sum_gD);
      sum_gbias += graw;
    }
    MAMBA_BARRIER();
    MAMBA_UNROLL
    for (int first = 0; first < kTasks; first += kThreads) {
      const int task = first + thread;
      const int column = task * kTogether % kWide;
      const int at = tile * kSteps + task * kTogether / kWide;  // in the segment
      if (at < positions && (kTasks % kThreads == 0 || task < kTasks)) {
        float sum[2] = {0.0f, 0.0f};
        MAMBA_UNROLL
        for (int other = 0; other < kSimds; ++other) {
          const int from = buffer + other * kSteps * kWide + task * kTogether;
          if (kTogether == 2) {
            const float2 share = pairs[from / 2];
            sum[0] += share.x;
            sum[1] += share.y;
          } else {
            sum[0] += work[from];
          }
        }
        MAMBA_UNROLL
        for (int e = 0; e < kTogether; ++e) {
          const int n = column % kPadded + e;
          const int to = column < kPadded ? n : states + n;
          if (n < states && (kInCell == kSegment || at < kInCell)) {
            shares[at * 2 * states + to] = sum[e];
          } else if (n < states) {
            more_at[(at - kInCell) * 2 * states + to] = sum[e];
          }
        }
      }
    }
    if (kBuffers == 1) {
      MAMBA_BARRIER();
    }
  }
}

MAMBA_UNROLL
for (int bit = kLanes / 2; bit >= 1; bit /= 2) {
  sum_gD += MAMBA_SHUFFLE_XOR(sum_gD, bit);
  sum_gbias += MAMBA_SHUFFLE_XOR(sum_gbias, bit);
}
if (real) {
  const auto part_A = cells + (first_segment * row_of_cells + thread / kLanes);
  MAMBA_UNROLL
  for (int i = 0; i < kM; ++i) {
    const int n = (i < kHalf ? low_n : high_n) + i;
    if (n < states) {
      part_A[n * kBlock] = gA[i];
      if (kHasState && chunk == 0) {
        gfirst[(int64_t(b) * channels + d) * states + n] = gh[i];
      }
    }
  }
  if (slice == 0) {
    const int64_t row = int64_t(b) * chunks + chunk;
    part_D[(row * 2) * channels + d] = sum_gD;
    part_D[(row * 2 + 1) * channels + d] = sum_gbias;
  }
}
