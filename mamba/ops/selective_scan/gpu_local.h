// GPU kernel, in the dialect of ops/gpu: what each chunk adds to the state that passes through it, so that chunks can
// be worked on at once. Shares its ways with gpu_forward.h.
//
// Forwards (chunks 0 to G - 2): the state after the chunk when it starts at 0. Backwards (kReverse, chunks 1 to
// G - 1): the gradient of the state before the chunk when that of the state after it is 0.
// `local` (B, G - 1, N, D); `total` (B, G - 1, D): the sum of dt, so that a state decays by exp(A total) across the
// chunk, or kHidden where a reset hides what was before.
constexpr int kSteps = 8;
constexpr int kOwn = kSteps / kLanes;
constexpr int kQuads = kM / 4;
constexpr int kRow = kLanes * kQuads;
constexpr int kPadded = kLanes * kM;
constexpr int kColumns = kThreads < kPadded ? kThreads : kPadded;  // threads that fill a row of B at once
constexpr int kRows = kThreads / kColumns;
constexpr float kLog2e = 1.44269504f;
constexpr float kHidden = 3.4e38f;
MAMBA_SHARED(float4, tile_W, kSegment* kRow);  // forwards B, backwards C
MAMBA_SHARED_PTR(float) flat_W = (MAMBA_SHARED_PTR(float))tile_W;

const int length = x_shape[1];
const int channels = x_shape[2];
const int states = A_shape[1];
const int thread = MAMBA_THREAD;
const int lane = thread % 32;
const int slice = thread % kLanes;
const int d = MAMBA_GROUP_X * (kThreads / kLanes) + thread / kLanes;
const bool real = d < channels;
const int c = real ? d : channels - 1;
const int b = MAMBA_GROUP_Y;
const int segments = (length + kSegment - 1) / kSegment;
const int chunks = MAMBA_GROUPS_Z + 1;
const int per_chunk = (segments + chunks - 1) / chunks;
const int from = (MAMBA_GROUP_Z + (kReverse ? 1 : 0)) * per_chunk * kSegment;
const int to = length < from + per_chunk * kSegment ? length : from + per_chunk * kSegment;
int begin = 0;
int end = length;
if (kHasSpans) {
  const int span_begin = int(spans[2 * b]);
  const int span_end = int(spans[2 * b + 1]);
  begin = span_begin < 0 ? 0 : span_begin;
  end = span_end > length ? length : span_end;
}

float A2[kM];
float h[kM];
MAMBA_UNROLL
for (int i = 0; i < kM; ++i) {
  const int n = slice * kM + i;
  A2[i] = n < states ? kLog2e * float(A[int64_t(c) * states + n]) : 0.0f;
  h[i] = 0.0f;
}
const float bias = kHasBias ? float(delta_bias[c]) : 0.0f;
float sum_dt = 0.0f;

// x is u forwards and the cotangent of y backwards, where the gate belongs to it.
const int tiles = (to - from + kSteps - 1) / kSteps;
const int own_from = from + (kReverse ? tiles - 1 : 0) * kSteps + slice * kOwn;
const int x_step = int(x_strides[1]);
const int delta_step = int(delta_strides[1]);
const int z_step = kHasZ ? int(z_strides[1]) : 0;
const int move = kReverse ? -kSteps : kSteps;
auto x_at = x + (b * x_strides[0] + c * x_strides[2] + own_from * x_strides[1]);
auto delta_at = delta + (b * delta_strides[0] + c * delta_strides[2] + own_from * delta_strides[1]);
auto z_at = z + (kHasZ ? b * z_strides[0] + c * z_strides[2] + own_from * z_strides[1] : 0);
T next_x[kOwn];
T next_delta[kOwn];
T next_z[kOwn];
MAMBA_UNROLL
for (int j = 0; j < kOwn; ++j) {
  const bool there = own_from + j < to;
  next_x[j] = there ? T(x_at[j * x_step]) : T(0.0f);
  next_delta[j] = there ? T(delta_at[j * delta_step]) : T(0.0f);
  next_z[j] = there && kHasZ && kReverse ? T(z_at[j * z_step]) : T(0.0f);
}

MAMBA_NO_UNROLL
for (int step = 0; step < tiles; ++step) {
  const int index = kReverse ? tiles - 1 - step : step;
  const int t0 = from + index * kSteps;
  const int tile = index * kSteps % kSegment;
  if (step == 0 || tile == (kReverse ? kSegment - kSteps : 0)) {
    const int segment = t0 - tile;
    MAMBA_BARRIER();
    for (int n = thread % kColumns; n < kPadded; n += kColumns) {
      const int row = thread / kColumns;
      const auto W_at = W + (b * W_strides[0] + (segment + row) * W_strides[1] + n * W_strides[2]);
      const int W_step = int(W_strides[1]);
      MAMBA_UNROLL
      for (int r = 0; r < kSegment; r += kRows) {
        const int t = segment + row + r;
        const bool inside = (!kHasSpans || t >= begin) && t < end && n < states;
        flat_W[(row + r) * kPadded + n] = inside ? float(W_at[r * W_step]) : 0.0f;
      }
    }
    MAMBA_BARRIER();
  }
  float own_dt[kOwn];
  float own_x[kOwn];
  MAMBA_UNROLL
  for (int j = 0; j < kOwn; ++j) {
    const int t = t0 + slice * kOwn + j;
    const bool inside = (!kHasSpans || t >= begin) && t < end;
    const float raw = float(next_delta[j]) + bias;
    const float dt = kSoftplus ? mamba_softplus(raw) : raw;
    own_dt[j] = inside ? dt : 0.0f;
    const float factor = kReverse ? (kHasZ ? mamba_silu(float(next_z[j])) : 1.0f) : dt;
    own_x[j] = inside ? factor * float(next_x[j]) : 0.0f;
  }
  x_at += move * x_step;
  delta_at += move * delta_step;
  z_at += move * z_step;
  if (kReverse ? step + 1 < tiles : t0 + 2 * kSteps <= to) {
    MAMBA_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      next_x[j] = T(x_at[j * x_step]);
      next_delta[j] = T(delta_at[j * delta_step]);
      if (kHasZ && kReverse) {
        next_z[j] = T(z_at[j * z_step]);
      }
    }
  } else if (!kReverse) {
    MAMBA_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      if (t0 + kSteps + slice * kOwn + j < to) {
        next_x[j] = T(x_at[j * x_step]);
        next_delta[j] = T(delta_at[j * delta_step]);
      }
    }
  }
  MAMBA_UNROLL
  for (int turn = 0; turn < kSteps; ++turn) {
    const int k = kReverse ? kSteps - 1 - turn : turn;
    const int source = lane - slice + k / kOwn;
    const float dt = kLanes == 1 ? own_dt[k % kOwn] : MAMBA_SHUFFLE(own_dt[k % kOwn], source);
    const float v = kLanes == 1 ? own_x[k % kOwn] : MAMBA_SHUFFLE(own_x[k % kOwn], source);
    bool reset = false;
    if (kHasResets) {
      const int t = t0 + k;
      reset = t >= begin && t < end && int(resets[int64_t(b) * length + t]) != 0;
    }
    sum_dt = reset ? kHidden : sum_dt + dt;
    MAMBA_UNROLL
    for (int q = 0; q < kQuads; ++q) {
      const float4 W4 = tile_W[(tile + k) * kRow + slice * kQuads + q];
      const float w[4] = {W4.x, W4.y, W4.z, W4.w};
      MAMBA_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int i = 4 * q + e;
        const float decay = mamba_exp2(dt * A2[i]);
        if (kReverse) {
          h[i] = reset ? 0.0f : decay * mamba_fma(v, w[e], h[i]);
        } else {
          h[i] = mamba_fma(decay, reset ? 0.0f : h[i], v * w[e]);
        }
      }
    }
  }
}

if (real) {
  const int64_t row = int64_t(b) * (chunks - 1) + MAMBA_GROUP_Z;
  MAMBA_UNROLL
  for (int i = 0; i < kM; ++i) {
    const int n = slice * kM + i;
    if (n < states) {
      local[(row * states + n) * channels + d] = h[i];
    }
  }
  if (slice == 0) {
    total[row * channels + d] = sum_dt;
  }
}
