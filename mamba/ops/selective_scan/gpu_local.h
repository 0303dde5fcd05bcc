// GPU kernel, in the dialect of ops/gpu: what each chunk adds to the state that passes through it, so that chunks can
// be worked on at once. After gpu_begin.h; shares its ways with gpu_forward.h.
//
// Forwards (chunks 0 to G - 2): the state after the chunk when it starts at 0, in the cell of the chunk behind.
// Backwards (kReverse, chunks 1 to G - 1): the gradient of the state before the chunk when that of the state after it
// is 0, in the cell of the chunk before. `total` (B, G - 1, D): the sum of dt, so that a state decays by exp(A total)
// across the chunk, or kHidden where a reset hides what was before.
constexpr float kHidden = 3.4e38f;
MAMBA_SHARED(float4, tile_W, kSegment* kRow);  // forwards B, backwards C
MAMBA_SHARED_PTR(float2) pairs_W = (MAMBA_SHARED_PTR(float2))tile_W;
float sum_dt[kEach];
MAMBA_UNROLL
for (int e = 0; e < kEach; ++e) {
  sum_dt[e] = 0.0f;
}

// x is u forwards and the cotangent of y backwards, where the gate belongs to it.
const int tiles = (to - from + kSteps - 1) / kSteps;
const int own_from = from + (kReverse ? tiles - 1 : 0) * kSteps + slice * kOwn;
const int64_t x_step = x_strides[1];
const int64_t delta_step = delta_strides[1];
const int64_t z_step = kHasZ && kReverse ? z_strides[1] : 0;
const int move = kReverse ? -kSteps : kSteps;
auto x_at = x + (b * x_strides[0] + c * x_strides[2] + own_from * x_strides[1]);
auto delta_at = delta + (b * delta_strides[0] + c * delta_strides[2] + own_from * delta_strides[1]);
auto z_at = z + (kHasZ && kReverse ? b * z_strides[0] + c * z_strides[2] + own_from * z_strides[1] : 0);
MambaNumbers<T, kEach> next_x[kOwn];
MambaNumbers<T, kEach> next_delta[kOwn];
MambaNumbers<T, kEach> next_z[kOwn];
const bool kGated = kHasZ && kReverse;
const int x_apart = int(x_strides[2]);
const int delta_apart = int(delta_strides[2]);
const int z_apart = kGated ? int(z_strides[2]) : 0;
const bool together =
    kEach == 1 || (channels % kEach == 0 && x_apart == 1 && delta_apart == 1 && (!kGated || z_apart == 1) &&
                   MambaNumbers<T, kEach>::whole(x_at, x_step) && MambaNumbers<T, kEach>::whole(delta_at, delta_step) &&
                   (!kGated || MambaNumbers<T, kEach>::whole(z_at, z_step)));
MAMBA_UNROLL
for (int j = 0; j < kOwn; ++j) {
  const int left = own_from + j < to ? near : 0;
  mamba_fetch(next_x[j], x_at + j * x_step, x_apart, left, together);
  mamba_fetch(next_delta[j], delta_at + j * delta_step, delta_apart, left, together, kBehind);
  mamba_fetch(next_z[j], z_at + j * z_step, z_apart, kGated ? left : 0, together);
}

// Each thread fetches neighbouring numbers of a row of W, a segment ahead.
const int fill_n = thread * kFill % kPadded;
const int W_apart = int(W_strides[2]);
const int fill_move = kReverse ? -kSegment : kSegment;
const int64_t W_move = fill_move * W_strides[1];
int fill_t = (kReverse ? (to - 1) / kSegment * kSegment : from) + thread * kFill / kPadded;
auto W_at = W + (b * W_strides[0] + fill_t * W_strides[1] + fill_n * W_strides[2]);
const bool W_whole = states == kPadded && W_apart == 1 && MambaNumbers<T, kFill>::whole(W_at, W_strides[1]);
MambaNumbers<T, kFill> next_W;
mamba_fetch(next_W, W_at, W_apart, fill_t >= begin && fill_t < end ? states - fill_n : 0, W_whole);

MAMBA_NO_UNROLL
for (int step = 0; step < tiles; ++step) {
  const int index = kReverse ? tiles - 1 - step : step;
  const int t0 = from + index * kSteps;
  const int tile = index * kSteps % kSegment;
  if (step == 0 || tile == (kReverse ? kSegment - kSteps : 0)) {
    MAMBA_BARRIER();
    MAMBA_UNROLL
    for (int i = 0; i < kFill; i += 2) {
      pairs_W[(thread * kFill + i) / 2] = make_float2(next_W.get(i), next_W.get(i + 1));
    }
    MAMBA_BARRIER();
    fill_t += fill_move;
    W_at += W_move;
    mamba_fetch(next_W, W_at, W_apart, fill_t >= begin && fill_t < end ? states - fill_n : 0, W_whole);
  }
  MambaNumbers<T, kEach> own_raw[kOwn];
  MambaNumbers<T, kEach> own_delta[kOwn];
  MambaNumbers<T, kEach> own_z[kOwn];
  MAMBA_UNROLL
  for (int j = 0; j < kOwn; ++j) {
    own_raw[j] = next_x[j];
    own_delta[j] = next_delta[j];
    own_z[j] = next_z[j];
  }
  x_at += move * x_step;
  delta_at += move * delta_step;
  z_at += move * z_step;
  if (together && (kReverse ? step + 1 < tiles : t0 + 2 * kSteps <= to)) {
    MAMBA_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      next_x[j].load(x_at + j * x_step);
      next_delta[j].load(delta_at + j * delta_step);
      if (kGated) {
        next_z[j].load(z_at + j * z_step);
      }
    }
  } else {
    MAMBA_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const bool there = kReverse ? step + 1 < tiles : t0 + kSteps + slice * kOwn + j < to;
      mamba_fetch(next_x[j], x_at + j * x_step, x_apart, there ? near : 0, together);
      mamba_fetch(next_delta[j], delta_at + j * delta_step, delta_apart, there ? near : 0, together, kBehind);
      mamba_fetch(next_z[j], z_at + j * z_step, z_apart, there && kGated ? near : 0, together);
    }
  }
  // One stretch of code without branches from here on, so that what each position needs is made next to exponentials.
  float own_dt[kEach][kOwn];
  float own_x[kEach][kOwn];
  MAMBA_UNROLL
  for (int j = 0; j < kOwn; ++j) {
    const int t = t0 + slice * kOwn + j;
    float gate[kEach];
    MAMBA_UNROLL
    for (int e = 0; e < kEach; ++e) {
      gate[e] = kGated ? own_z[j].get(e) : 1.0f;
    }
    if (kGated) {
      mamba_silus<kEach>(gate);
    }
    MAMBA_UNROLL
    for (int e = 0; e < kEach; ++e) {
      const float dt = mamba_time_step(own_delta[j].get(e) + bias[e], kSoftplus);
      const float factor = kReverse ? gate[e] : dt;
      const float v = factor * own_raw[j].get(e);
      own_dt[e][j] = kMasked && (t < begin || t >= end) ? 0.0f : dt;
      own_x[e][j] = kHasSpans && (t < begin || t >= end) ? 0.0f : v;
    }
  }
  MAMBA_UNROLL
  for (int turn = 0; turn < kSteps; ++turn) {
    const int k = kReverse ? kSteps - 1 - turn : turn;
    const int source = lane - slice + k / kOwn;
    float dt[kEach];
    float v[kEach];
    bool reset = false;
    if (kHasResets) {
      const int t = t0 + k;
      reset = t >= begin && t < end && int(resets[int64_t(b) * length + t]) != 0;
    }
    MAMBA_UNROLL
    for (int e = 0; e < kEach; ++e) {
      dt[e] = kLanes == 1 ? own_dt[e][k % kOwn] : MAMBA_SHUFFLE(own_dt[e][k % kOwn], source);
      v[e] = kLanes == 1 ? own_x[e][k % kOwn] : MAMBA_SHUFFLE(own_x[e][k % kOwn], source);
      sum_dt[e] = reset ? kHidden : sum_dt[e] + dt[e];
    }
    MAMBA_UNROLL
    for (int q = 0; q < kQuads; ++q) {
      const float4 W4 = tile_W[(tile + k) * kRow + slice * kQuads + q];
      const float w[4] = {W4.x, W4.y, W4.z, W4.w};
      MAMBA_UNROLL
      for (int e = 0; e < kEach; ++e) {
        MAMBA_UNROLL
        for (int j = 0; j < 4; ++j) {
          const int i = 4 * q + j;
          const float decay = mamba_exp2(dt[e] * A2[e][i]);
          if (kReverse) {
            h[e][i] = reset ? 0.0f : decay * mamba_fma(v[e], w[j], h[e][i]);
          } else {
            h[e][i] = mamba_fma(decay, reset ? 0.0f : h[e][i], v[e] * w[j]);
          }
        }
      }
    }
  }
}

const auto cell_at =
    carried + ((int64_t(b) * cells + (kReverse ? chunk - 1 : chunk + 1) * cells_apart) * row_of_cells + in_cells);
const auto total_at = total + ((int64_t(b) * (chunks - 1) + MAMBA_GROUP_Z) * channels + d);
MAMBA_UNROLL
for (int e = 0; e < kEach; ++e) {
  MAMBA_UNROLL
  for (int i = 0; i < kM; ++i) {
    if (slice * kM + i < states && e < real) {
      cell_at[i * kBlock + e] = h[e][i];
    }
  }
  if (slice == 0 && e < real) {
    total_at[e] = sum_dt[e];
  }
}
