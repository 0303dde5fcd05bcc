// GPU kernel, in the dialect of ops/gpu: the gradients of one chunk of each sequence. Shares its ways with
// gpu_forward.h, and walks through the chunk from its end.
//
// A segment starts from its kept state; the states before its tiles are computed once and lie in shared memory, those
// within a tile are computed again and lie in registers while the tile is walked back through. So each decay is
// computed at most three times and no state is stored for more than one position in kSegment.
//
// The gradients of B and C are sums over channels. The lanes of a SIMD group hand partial sums to each other until each
// lane has its share, groups leave theirs in `part_BC` (B, groups, L, 2 N), which is summed afterwards: no atomics, the
// same bits every time. `part_A` (B, chunks, D, N) and `part_D` (B, chunks, 2, D) (of D, of delta_bias) likewise.
// `last` is the gradient of the state after the chunk: (B, chunks, N, D), or with one chunk (B, D, N); without kHasLast
// it is 0. kGiveY: the forward pass' output once more, in `y`.
constexpr int kOwn = kSteps / kLanes;
constexpr int kQuads = kM / 4;
constexpr int kRow = kLanes * kQuads;
constexpr int kPadded = kLanes * kM;
constexpr int kColumns = kThreads < kPadded ? kThreads : kPadded;  // threads that fill a row of B at once
constexpr int kRows = kThreads / kColumns;
constexpr int kWide = 2 * kPadded;  // a row of the gradients of B and C
constexpr int kWideColumns = kThreads < kWide ? kThreads : kWide;
constexpr int kWideRows = kThreads / kWideColumns;
constexpr int kSimds = kThreads / 32;
constexpr int kShares = kSimds * kSteps * kWide;
constexpr int kBuffers = kSegment > kSteps ? 2 : 1;                        // with two, one barrier a tile is enough
constexpr int kSpread = 2 * kM * kLanes >= 32 ? 2 * kM * kLanes / 32 : 1;  // sums that a lane ends with
// Lanes of a SIMD group's upper half keep the two halves of their states the other way round. So what is handed over
// first, of the sums over channels, lies in the same registers in both halves. Where such a half is less than a float4
// they have copies of B and C that are turned too.
constexpr int kHalf = kM / 2;
constexpr int kCopies = kM == 4 ? 2 : 1;
constexpr float kLog2e = 1.44269504f;
constexpr float kLn2 = 0.693147181f;
MAMBA_SHARED(float4, tile_B, kCopies* kSegment* kRow);
MAMBA_SHARED(float4, tile_C, kCopies* kSegment* kRow);
// Partial sums, then the states before all tiles but the first. Of many tiles the last one's states lie where partial
// sums will, until those are made: Metal has 32 KiB for all of this.
constexpr bool kTight = kSegment / kSteps > 4;
constexpr int kStarts = kSegment / kSteps - (kTight ? 2 : 1);
MAMBA_SHARED(float, work, kBuffers* kShares + kStarts * kM * kThreads);
MAMBA_SHARED_PTR(float) flat_B = (MAMBA_SHARED_PTR(float))tile_B;
MAMBA_SHARED_PTR(float) flat_C = (MAMBA_SHARED_PTR(float))tile_C;

const int length = u_shape[1];
const int channels = u_shape[2];
const int states = A_shape[1];
const int thread = MAMBA_THREAD;
const int lane = thread % 32;
const int simd = thread / 32;
const int slice = thread % kLanes;
const int turn_n = lane >= 16 ? kHalf : 0;
const int low_n = slice * kM + turn_n;
const int high_n = slice * kM - turn_n;
const int blocks = (channels + kThreads / kLanes - 1) / (kThreads / kLanes);
const int d = MAMBA_GROUP_X * (kThreads / kLanes) + thread / kLanes;
const bool real = d < channels;
const int c = real ? d : channels - 1;
const int b = MAMBA_GROUP_Y;
const int segments = (length + kSegment - 1) / kSegment;
const int chunks = MAMBA_GROUPS_Z;
const int per_chunk = (segments + chunks - 1) / chunks;
const int chunk = MAMBA_GROUP_Z;
const int first_segment = chunk * per_chunk;
const int end_segment = segments < first_segment + per_chunk ? segments : first_segment + per_chunk;
int begin = 0;
int end = length;
if (kHasSpans) {
  const int span_begin = int(spans[2 * b]);
  const int span_end = int(spans[2 * b + 1]);
  begin = span_begin < 0 ? 0 : span_begin;
  end = span_end > length ? length : span_end;
}

float A2[kM];
float gh[kM];
float gA[kM];
MAMBA_UNROLL
for (int i = 0; i < kM; ++i) {
  const int n = (i < kHalf ? low_n : high_n) + i;
  const bool there = real && n < states;
  A2[i] = there ? kLog2e * float(A[int64_t(c) * states + n]) : 0.0f;
  gA[i] = 0.0f;
  gh[i] = 0.0f;
  if (there && kChunked) {
    gh[i] = float(last[((int64_t(b) * chunks + chunk) * states + n) * channels + c]);
  } else if (there && kHasLast) {
    gh[i] = float(last[(int64_t(b) * channels + c) * states + n]);
  }
}
const float bias = kHasBias ? float(delta_bias[c]) : 0.0f;
const float skip = kHasD ? float(D[c]) : 0.0f;
float sum_gD = 0.0f;
float sum_gbias = 0.0f;
// Each lane's own positions of a tile: addresses cost as much as the recurrence when they are made anew.
const int u_step = int(u_strides[1]);
const int delta_step = int(delta_strides[1]);
const int z_step = kHasZ ? int(z_strides[1]) : 0;
const int gy_step = int(gy_strides[1]);
const int own = slice * kOwn;
const int low_q = kCopies == 1 ? low_n / 4 : slice + (lane >= 16 ? kSegment * kRow : 0);
const int high_q = high_n / 4;
const auto u_row = u + (b * u_strides[0] + c * u_strides[2] + own * u_strides[1]);
const auto delta_row = delta + (b * delta_strides[0] + c * delta_strides[2] + own * delta_strides[1]);
const auto z_row = z + (kHasZ ? b * z_strides[0] + c * z_strides[2] + own * z_strides[1] : 0);
const auto gy_row = gy + (b * gy_strides[0] + c * gy_strides[2] + own * gy_strides[1]);
const int64_t out_row = (int64_t(b) * length + own) * channels + c;

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
  const int64_t last_tile = segment + (tiles - 1) * kSteps;
  auto u_at = u_row + last_tile * u_step;
  auto delta_at = delta_row + last_tile * delta_step;
  auto z_at = z_row + last_tile * z_step;
  auto gy_at = gy_row + last_tile * gy_step;
  auto u_ahead = u_row + int64_t(segment) * u_step;
  auto delta_ahead = delta_row + int64_t(segment) * delta_step;
  MAMBA_UNROLL
  for (int j = 0; j < kOwn; ++j) {
    const bool there = int(last_tile) + own + j < length;
    next_u[j] = there ? T(u_at[j * u_step]) : T(0.0f);
    next_delta[j] = there ? T(delta_at[j * delta_step]) : T(0.0f);
    next_z[j] = there && kHasZ ? T(z_at[j * z_step]) : T(0.0f);
    next_gy[j] = there ? T(gy_at[j * gy_step]) : T(0.0f);
    ahead_u[j] = tiles > 1 ? T(u_ahead[j * u_step]) : T(0.0f);
    ahead_delta[j] = tiles > 1 ? T(delta_ahead[j * delta_step]) : T(0.0f);
  }
  float h[kM];
  MAMBA_UNROLL
  for (int i = 0; i < kM; ++i) {
    const int n = (i < kHalf ? low_n : high_n) + i;
    h[i] = real && n < states ? float(kept[((int64_t(b) * segments + s) * states + n) * channels + c]) : 0.0f;
  }
  MAMBA_BARRIER();
  for (int n = thread % kColumns; n < kPadded; n += kColumns) {
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
      flat_B[(row + r) * kPadded + n] = B_here;
      flat_C[(row + r) * kPadded + n] = C_here;
      if (kCopies == 2) {
        flat_B[(kSegment + row + r) * kPadded + (n ^ kHalf)] = B_here;
        flat_C[(kSegment + row + r) * kPadded + (n ^ kHalf)] = C_here;
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
    u_ahead += kSteps * u_step;
    delta_ahead += kSteps * delta_step;
    if (tile + 2 < tiles) {
      MAMBA_UNROLL
      for (int j = 0; j < kOwn; ++j) {
        ahead_u[j] = T(u_ahead[j * u_step]);
        ahead_delta[j] = T(delta_ahead[j * delta_step]);
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
    u_at += -kSteps * u_step;
    delta_at += -kSteps * delta_step;
    z_at += -kSteps * z_step;
    gy_at += -kSteps * gy_step;
    if (tile > 0) {
      MAMBA_UNROLL
      for (int j = 0; j < kOwn; ++j) {
        next_u[j] = T(u_at[j * u_step]);
        next_delta[j] = T(delta_at[j * delta_step]);
        next_gy[j] = T(gy_at[j * gy_step]);
        if (kHasZ) {
          next_z[j] = T(z_at[j * z_step]);
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
        h[i] = real && n < states ? float(kept[((int64_t(b) * segments + s) * states + n) * channels + c]) : 0.0f;
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
    const int64_t out_tile = out_row + int64_t(t0) * channels;
    const auto gu_at = gu + out_tile;
    const auto gdelta_at = gdelta + out_tile;
    const auto gz_at = gz + (kHasZ ? out_tile : 0);
    const auto y_at = y + (kGiveY ? out_tile : 0);
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
        gu_at[j * channels] = T(inside ? mamba_fma(own_dt[j], sum_gx[j], skip * own_g[j]) : 0.0f);
        gdelta_at[j * channels] = T(graw);
        if (kGiveY) {
          const float out = inside ? mamba_fma(skip, own_u[j], sum_y[j]) : 0.0f;
          y_at[j * channels] = T(kHasZ ? out * own_z[j] * own_gate[j] : out);
        }
        if (kHasZ) {
          const float slope = own_gate[j] * mamba_fma(own_z[j], 1.0f - own_gate[j], 1.0f);
          gz_at[j * channels] = T(inside ? own_gy[j] * mamba_fma(skip, own_u[j], sum_y[j]) * slope : 0.0f);
        }
      }
      sum_gD = mamba_fma(own_g[j], own_u[j], sum_gD);
      sum_gbias += graw;
    }
    MAMBA_BARRIER();
    for (int column = thread % kWideColumns; column < kWide; column += kWideColumns) {
      const int row = thread / kWideColumns;
      const int n = column % kPadded;
      auto part = part_BC + (((int64_t(b) * blocks + MAMBA_GROUP_X) * length + t0 + row) * 2 * states +
                             (column < kPadded ? n : states + n));
      MAMBA_UNROLL
      for (int r = 0; r < kSteps; r += kWideRows) {
        float sum = 0.0f;
        MAMBA_UNROLL
        for (int other = 0; other < kSimds; ++other) {
          sum += work[buffer + (other * kSteps + row + r) * kWide + column];
        }
        if (n < states && t0 + row + r < length) {
          part[r * 2 * states] = sum;
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
  const int64_t row = int64_t(b) * chunks + chunk;
  MAMBA_UNROLL
  for (int i = 0; i < kM; ++i) {
    const int n = (i < kHalf ? low_n : high_n) + i;
    if (n < states) {
      part_A[(row * channels + d) * states + n] = gA[i];
      if (chunk == 0) {
        gfirst[(int64_t(b) * channels + d) * states + n] = gh[i];
      }
    }
  }
  if (slice == 0) {
    part_D[(row * 2) * channels + d] = sum_gD;
    part_D[(row * 2 + 1) * channels + d] = sum_gbias;
  }
}
