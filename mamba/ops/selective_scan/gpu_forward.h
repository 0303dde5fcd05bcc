// GPU kernel, in the dialect of ops/gpu: the scan over one chunk of each sequence. After gpu_begin.h.
//
// kLanes neighbouring lanes share a channel: each keeps kM of its states in registers, and in each tile of kSteps
// positions does what is done once per channel (softplus, gate) for its own kOwn of them. B and C of a segment lie in
// shared memory, since all channels of a group read them. The next tile's u, delta and z are loaded while this one is
// worked on, the next segment's B and C while this one is.
//
// A lane has kEach neighbouring channels: with two it reads B and C once for both, and their numbers in pairs.
//
// `first` is the initial state (B, D, N) or, where there are several chunks, cells with the states before them (kSparse
// without kKeep). With kKeep the states before all segments go to cells: to those with several chunks, else to `kept`.
MAMBA_SHARED(float4, tile_B, kSegment* kRow);
MAMBA_SHARED(float4, tile_C, kSegment* kRow);
MAMBA_SHARED_PTR(float2) pairs_B = (MAMBA_SHARED_PTR(float2))tile_B;
MAMBA_SHARED_PTR(float2) pairs_C = (MAMBA_SHARED_PTR(float2))tile_C;

const bool first_lines = states == kPadded && MambaNumbers<float, 4>::whole(first, states);
const bool state_lines = states == kPadded && MambaNumbers<float, 4>::whole(state, states);
float skip[kEach];
MAMBA_UNROLL
for (int e = 0; e < kEach; ++e) {
  const int ce = c + e < channels ? c + e : channels - 1;
  const auto before = first + (kChunked ? (int64_t(b) * cells + chunk * cells_apart) * row_of_cells + in_cells + e
                                        : (int64_t(b) * channels + ce) * states + slice * kM);
  MAMBA_UNROLL
  for (int q = 0; q < kQuads && (kChunked || kHasState); ++q) {
    const int left = states - (slice * kM + 4 * q);
    MambaNumbers<float, 4> four;
    mamba_fetch(four, before + (kChunked ? 4 * q * kBlock : 4 * q), kChunked ? kBlock : 1,
                kChunked && e >= real ? 0 : left, !kChunked && first_lines);
    MAMBA_UNROLL
    for (int j = 0; j < 4; ++j) {
      h[e][4 * q + j] = four.get(j);
    }
  }
  skip[e] = kHasD ? float(D[ce]) : 0.0f;
}
auto keep = kChunked ? MAMBA_WRITABLE(float, first) : kept;

// Each lane's own positions of a tile, which move on by whole tiles: addresses cost as much as the recurrence
// otherwise.
const int own_from = from + slice * kOwn;
const int64_t u_step = u_strides[1];
const int64_t delta_step = delta_strides[1];
const int64_t z_step = kHasZ ? z_strides[1] : 0;
auto u_at = u + (b * u_strides[0] + c * u_strides[2] + own_from * u_strides[1]);
auto delta_at = delta + (b * delta_strides[0] + c * delta_strides[2] + own_from * delta_strides[1]);
auto z_at = z + (kHasZ ? b * z_strides[0] + c * z_strides[2] + own_from * z_strides[1] : 0);
auto y_at = y + ((int64_t(b) * length + own_from) * channels + c);
// As they are: widening them would wait for them.
MambaNumbers<T, kEach> next_u[kOwn];
MambaNumbers<T, kEach> next_delta[kOwn];
MambaNumbers<T, kEach> next_z[kOwn];
const int u_apart = int(u_strides[2]);
const int delta_apart = int(delta_strides[2]);
const int z_apart = kHasZ ? int(z_strides[2]) : 0;
const bool together =
    kEach == 1 || (channels % kEach == 0 && u_apart == 1 && delta_apart == 1 && (!kHasZ || z_apart == 1) &&
                   MambaNumbers<T, kEach>::whole(u_at, u_step) && MambaNumbers<T, kEach>::whole(delta_at, delta_step) &&
                   (!kHasZ || MambaNumbers<T, kEach>::whole(z_at, z_step)));
MAMBA_UNROLL
for (int j = 0; j < kOwn; ++j) {
  const int left = own_from + j < to ? near : 0;
  mamba_fetch(next_u[j], u_at + j * u_step, u_apart, left, together);
  mamba_fetch(next_delta[j], delta_at + j * delta_step, delta_apart, left, together, kBehind);
  mamba_fetch(next_z[j], z_at + j * z_step, z_apart, kHasZ ? left : 0, together);
}

// Each thread fetches neighbouring numbers of a row of B and C.
const int fill_row = thread * kFill / kPadded;
const int fill_n = thread * kFill % kPadded;
const int B_apart = int(B_strides[2]);
const int C_apart = int(C_strides[2]);
const int64_t B_move = kSegment * B_strides[1];
const int64_t C_move = kSegment * C_strides[1];
int fill_t = from + fill_row;
auto B_at = B + (b * B_strides[0] + fill_t * B_strides[1] + fill_n * B_strides[2]);
auto C_at = C + (b * C_strides[0] + fill_t * C_strides[1] + fill_n * C_strides[2]);
const bool B_whole = states == kPadded && B_apart == 1 && MambaNumbers<T, kFill>::whole(B_at, B_strides[1]);
const bool C_whole = states == kPadded && C_apart == 1 && MambaNumbers<T, kFill>::whole(C_at, C_strides[1]);
MambaNumbers<T, kFill> next_B;
MambaNumbers<T, kFill> next_C;
const int fill_left = fill_t >= begin && fill_t < end ? states - fill_n : 0;
mamba_fetch(next_B, B_at, B_apart, fill_left, B_whole);
mamba_fetch(next_C, C_at, C_apart, fill_left, C_whole);

MAMBA_NO_UNROLL
for (int segment = from; segment < to; segment += kSegment) {
  if (kKeep && !(kChunked && segment == from)) {
    const auto cell_at = keep + ((int64_t(b) * segments + segment / kSegment) * row_of_cells + in_cells);
    MAMBA_UNROLL
    for (int i = 0; i < kM; ++i) {
      MAMBA_UNROLL
      for (int e = 0; e < kEach; ++e) {
        if (slice * kM + i < states && e < real) {
          cell_at[i * kBlock + e] = h[e][i];
        }
      }
    }
  }
  MAMBA_BARRIER();
  MAMBA_UNROLL
  for (int i = 0; i < kFill; i += 2) {
    pairs_B[(thread * kFill + i) / 2] = make_float2(next_B.get(i), next_B.get(i + 1));
    pairs_C[(thread * kFill + i) / 2] = make_float2(next_C.get(i), next_C.get(i + 1));
  }
  MAMBA_BARRIER();
  fill_t += kSegment;
  B_at += B_move;
  C_at += C_move;
  const int left_ahead = (!kHasSpans || fill_t >= begin) && fill_t < end ? states - fill_n : 0;
  mamba_fetch(next_B, B_at, B_apart, left_ahead, B_whole);
  mamba_fetch(next_C, C_at, C_apart, left_ahead, C_whole);
  MAMBA_NO_UNROLL
  for (int tile = 0; tile < kSegment; tile += kSteps) {
    const int t0 = segment + tile;
    if (t0 >= to) {
      break;
    }
    MambaNumbers<T, kEach> own_u[kOwn];
    MambaNumbers<T, kEach> own_delta[kOwn];
    MambaNumbers<T, kEach> own_z[kOwn];
    MAMBA_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      own_u[j] = next_u[j];
      own_delta[j] = next_delta[j];
      own_z[j] = next_z[j];
    }
    u_at += kSteps * u_step;
    delta_at += kSteps * delta_step;
    z_at += kSteps * z_step;
    if (together && t0 + 2 * kSteps <= to) {
      MAMBA_UNROLL
      for (int j = 0; j < kOwn; ++j) {
        next_u[j].load(u_at + j * u_step);
        next_delta[j].load(delta_at + j * delta_step);
        if (kHasZ) {
          next_z[j].load(z_at + j * z_step);
        }
      }
    } else {
      MAMBA_UNROLL
      for (int j = 0; j < kOwn; ++j) {
        const int left = t0 + kSteps + slice * kOwn + j < to ? near : 0;
        mamba_fetch(next_u[j], u_at + j * u_step, u_apart, left, together);
        mamba_fetch(next_delta[j], delta_at + j * delta_step, delta_apart, left, together, kBehind);
        mamba_fetch(next_z[j], z_at + j * z_step, z_apart, kHasZ ? left : 0, together);
      }
    }
    // One stretch of code without branches from here to the stores, so that what each position needs is made next to
    // exponentials.
    float own_dt[kEach][kOwn];
    float own_x[kEach][kOwn];
    MAMBA_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const int t = t0 + slice * kOwn + j;
      MAMBA_UNROLL
      for (int e = 0; e < kEach; ++e) {
        const float dt = mamba_time_step(own_delta[j].get(e) + bias[e], kSoftplus);
        const float x = dt * own_u[j].get(e);
        own_dt[e][j] = kMasked && (t < begin || t >= end) ? 0.0f : dt;
        own_x[e][j] = kHasSpans && (t < begin || t >= end) ? 0.0f : x;
      }
    }
    float sum[kEach][kSteps];
    MAMBA_UNROLL
    for (int k = 0; k < kSteps; ++k) {
      const int source = lane - slice + k / kOwn;
      float dt[kEach];
      float x[kEach];
      MAMBA_UNROLL
      for (int e = 0; e < kEach; ++e) {
        dt[e] = kLanes == 1 ? own_dt[e][k % kOwn] : MAMBA_SHUFFLE(own_dt[e][k % kOwn], source);
        x[e] = kLanes == 1 ? own_x[e][k % kOwn] : MAMBA_SHUFFLE(own_x[e][k % kOwn], source);
      }
      if (kHasResets) {
        const int t = t0 + k;
        if (t >= begin && t < end && int(resets[int64_t(b) * length + t]) != 0) {
          MAMBA_UNROLL
          for (int i = 0; i < kEach * kM; ++i) {
            h[i / kM][i % kM] = 0.0f;
          }
        }
      }
      MAMBA_UNROLL
      for (int q = 0; q < kQuads; ++q) {
        const float4 B4 = tile_B[(tile + k) * kRow + slice * kQuads + q];
        const float4 C4 = tile_C[(tile + k) * kRow + slice * kQuads + q];
        const float wB[4] = {B4.x, B4.y, B4.z, B4.w};
        const float wC[4] = {C4.x, C4.y, C4.z, C4.w};
        MAMBA_UNROLL
        for (int e = 0; e < kEach; ++e) {
          MAMBA_UNROLL
          for (int j = 0; j < 4; ++j) {
            const int i = 4 * q + j;
            h[e][i] = mamba_fma(mamba_exp2(dt[e] * A2[e][i]), h[e][i], x[e] * wB[j]);
            sum[e][k] = i == 0 ? wC[0] * h[e][0] : mamba_fma(wC[j], h[e][i], sum[e][k]);
          }
        }
      }
    }
    MAMBA_UNROLL
    for (int e = 0; e < kEach; ++e) {
      mamba_sum_and_split<kSteps, kLanes>(sum[e], lane);
    }
    MambaNumbers<T, kEach> out[kOwn];
    MAMBA_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      float gate[kEach];
      float values[kEach];
      MAMBA_UNROLL
      for (int e = 0; e < kEach; ++e) {
        gate[e] = kHasZ ? own_z[j].get(e) : 1.0f;
      }
      if (kHasZ) {
        mamba_silus<kEach>(gate);
      }
      MAMBA_UNROLL
      for (int e = 0; e < kEach; ++e) {
        const float value = mamba_fma(skip[e], own_u[j].get(e), sum[e][j]);
        values[e] = kHasZ ? value * gate[e] : value;
      }
      out[j].round(values);
    }
    if (!kHasSpans && t0 + kSteps <= to && together && real > 0) {
      MAMBA_UNROLL
      for (int j = 0; j < kOwn; ++j) {
        out[j].store(y_at + j * channels);
      }
    } else {
      MAMBA_UNROLL
      for (int j = 0; j < kOwn; ++j) {
        const int t = t0 + slice * kOwn + j;
        const bool inside = (!kHasSpans || t >= begin) && t < end;
        MAMBA_UNROLL
        for (int e = 0; e < kEach; ++e) {
          if (t < to && e < real) {
            y_at[j * channels + e] = T(inside ? out[j].get(e) : 0.0f);
          }
        }
      }
    }
    y_at += kSteps * channels;
  }
}

if (chunk == chunks - 1) {
  MAMBA_UNROLL
  for (int i = 0; i < kEach * kQuads; ++i) {
    const int e = i / kQuads;
    const int n = slice * kM + 4 * (i % kQuads);
    if (e < real) {
      const auto at = state + ((int64_t(b) * channels + d + e) * states + n);
      const float last[4] = {h[e][4 * (i % kQuads)], h[e][4 * (i % kQuads) + 1], h[e][4 * (i % kQuads) + 2],
                             h[e][4 * (i % kQuads) + 3]};
      if (state_lines) {
        MambaNumbers<float, 4> line;
        line.round(last);
        line.store(at);
      } else {
        MAMBA_UNROLL
        for (int j = 0; j < 4; ++j) {
          if (n + j < states) {
            at[j] = last[j];
          }
        }
      }
    }
  }
}
