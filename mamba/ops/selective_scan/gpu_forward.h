// GPU kernel, in the dialect of ops/gpu: the scan over one chunk of each sequence.
//
// kLanes neighbouring lanes share a channel: each keeps kM of its states in registers, and in each tile of kSteps
// positions does what is done once per channel (softplus, gate) for its own kOwn of them. B and C of a segment lie in
// shared memory, since all channels of a group read them. The next tile's u, delta and z are loaded while this one is
// worked on.
//
// `first` is the state before the chunk, (B, chunks, N, D), where there are several, else the initial state (B, D, N).
// `kept` (B, segments, N, D) gets the state before each segment.
constexpr int kSteps = 8;
constexpr int kOwn = kSteps / kLanes;
constexpr int kQuads = kM / 4;
constexpr int kRow = kLanes * kQuads;  // float4 of a row of B
constexpr int kPadded = kLanes * kM;
constexpr int kColumns = kThreads < kPadded ? kThreads : kPadded;  // threads that fill a row of B at once
constexpr int kRows = kThreads / kColumns;
constexpr float kLog2e = 1.44269504f;
MAMBA_SHARED(float4, tile_B, kSegment* kRow);
MAMBA_SHARED(float4, tile_C, kSegment* kRow);
MAMBA_SHARED_PTR(float) flat_B = (MAMBA_SHARED_PTR(float))tile_B;
MAMBA_SHARED_PTR(float) flat_C = (MAMBA_SHARED_PTR(float))tile_C;

const int length = u_shape[1];
const int channels = u_shape[2];
const int states = A_shape[1];
const int thread = MAMBA_THREAD;
const int lane = thread % 32;
const int slice = thread % kLanes;
const int d = MAMBA_GROUP_X * (kThreads / kLanes) + thread / kLanes;
const bool real = d < channels;
const int c = real ? d : channels - 1;
const int b = MAMBA_GROUP_Y;
const int segments = (length + kSegment - 1) / kSegment;
const int chunks = MAMBA_GROUPS_Z;
const int per_chunk = (segments + chunks - 1) / chunks;
const int chunk = MAMBA_GROUP_Z;
const int from = chunk * per_chunk * kSegment;
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
  const bool there = n < states;
  A2[i] = there ? kLog2e * float(A[int64_t(c) * states + n]) : 0.0f;
  h[i] = 0.0f;
  if (there && kChunked) {
    h[i] = float(first[((int64_t(b) * chunks + chunk) * states + n) * channels + c]);
  } else if (there && kHasState) {
    h[i] = float(first[(int64_t(b) * channels + c) * states + n]);
  }
}
const float bias = kHasBias ? float(delta_bias[c]) : 0.0f;
const float skip = kHasD ? float(D[c]) : 0.0f;

// Each lane's own positions of a tile, which move on by whole tiles: addresses cost as much as the recurrence
// otherwise.
const int own_from = from + slice * kOwn;
const int u_step = int(u_strides[1]);
const int delta_step = int(delta_strides[1]);
const int z_step = kHasZ ? int(z_strides[1]) : 0;
auto u_at = u + (b * u_strides[0] + c * u_strides[2] + own_from * u_strides[1]);
auto delta_at = delta + (b * delta_strides[0] + c * delta_strides[2] + own_from * delta_strides[1]);
auto z_at = z + (kHasZ ? b * z_strides[0] + c * z_strides[2] + own_from * z_strides[1] : 0);
auto y_at = y + ((int64_t(b) * length + own_from) * channels + c);
// As they are: widening them would wait for them.
T next_u[kOwn];
T next_delta[kOwn];
T next_z[kOwn];
MAMBA_UNROLL
for (int j = 0; j < kOwn; ++j) {
  const bool there = own_from + j < to;
  next_u[j] = there ? T(u_at[j * u_step]) : T(0.0f);
  next_delta[j] = there ? T(delta_at[j * delta_step]) : T(0.0f);
  next_z[j] = there && kHasZ ? T(z_at[j * z_step]) : T(0.0f);
}

MAMBA_NO_UNROLL
for (int segment = from; segment < to; segment += kSegment) {
  if (kKeep && real) {
    MAMBA_UNROLL
    for (int i = 0; i < kM; ++i) {
      const int n = slice * kM + i;
      if (n < states) {
        kept[((int64_t(b) * segments + segment / kSegment) * states + n) * channels + d] = h[i];
      }
    }
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
      flat_B[(row + r) * kPadded + n] = inside ? float(B_at[r * B_step]) : 0.0f;
      flat_C[(row + r) * kPadded + n] = inside ? float(C_at[r * C_step]) : 0.0f;
    }
  }
  MAMBA_BARRIER();
  MAMBA_NO_UNROLL
  for (int tile = 0; tile < kSegment; tile += kSteps) {
    const int t0 = segment + tile;
    if (t0 >= to) {
      break;
    }
    float own_u[kOwn];
    float own_z[kOwn];
    float own_dt[kOwn];
    float own_x[kOwn];
    MAMBA_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const int t = t0 + slice * kOwn + j;
      const bool inside = (!kHasSpans || t >= begin) && t < end;
      own_u[j] = float(next_u[j]);
      own_z[j] = float(next_z[j]);
      const float raw = float(next_delta[j]) + bias;
      const float dt = kSoftplus ? mamba_softplus(raw) : raw;
      own_dt[j] = inside ? dt : 0.0f;
      own_x[j] = inside ? dt * own_u[j] : 0.0f;
    }
    u_at += kSteps * u_step;
    delta_at += kSteps * delta_step;
    z_at += kSteps * z_step;
    if (t0 + 2 * kSteps <= to) {
      MAMBA_UNROLL
      for (int j = 0; j < kOwn; ++j) {
        next_u[j] = T(u_at[j * u_step]);
        next_delta[j] = T(delta_at[j * delta_step]);
        if (kHasZ) {
          next_z[j] = T(z_at[j * z_step]);
        }
      }
    } else {
      MAMBA_UNROLL
      for (int j = 0; j < kOwn; ++j) {
        if (t0 + kSteps + slice * kOwn + j < to) {
          next_u[j] = T(u_at[j * u_step]);
          next_delta[j] = T(delta_at[j * delta_step]);
          if (kHasZ) {
            next_z[j] = T(z_at[j * z_step]);
          }
        }
      }
    }
    float sum[kSteps];
    MAMBA_UNROLL
    for (int k = 0; k < kSteps; ++k) {
      const int source = lane - slice + k / kOwn;
      const float dt = kLanes == 1 ? own_dt[k % kOwn] : MAMBA_SHUFFLE(own_dt[k % kOwn], source);
      const float x = kLanes == 1 ? own_x[k % kOwn] : MAMBA_SHUFFLE(own_x[k % kOwn], source);
      if (kHasResets) {
        const int t = t0 + k;
        if (t >= begin && t < end && int(resets[int64_t(b) * length + t]) != 0) {
          MAMBA_UNROLL
          for (int i = 0; i < kM; ++i) {
            h[i] = 0.0f;
          }
        }
      }
      float y0 = 0.0f;
      float y1 = 0.0f;
      float y2 = 0.0f;
      float y3 = 0.0f;
      MAMBA_UNROLL
      for (int q = 0; q < kQuads; ++q) {
        const float4 B4 = tile_B[(tile + k) * kRow + slice * kQuads + q];
        const float4 C4 = tile_C[(tile + k) * kRow + slice * kQuads + q];
        h[4 * q] = mamba_fma(mamba_exp2(dt * A2[4 * q]), h[4 * q], x * B4.x);
        h[4 * q + 1] = mamba_fma(mamba_exp2(dt * A2[4 * q + 1]), h[4 * q + 1], x * B4.y);
        h[4 * q + 2] = mamba_fma(mamba_exp2(dt * A2[4 * q + 2]), h[4 * q + 2], x * B4.z);
        h[4 * q + 3] = mamba_fma(mamba_exp2(dt * A2[4 * q + 3]), h[4 * q + 3], x * B4.w);
        y0 = mamba_fma(C4.x, h[4 * q], y0);
        y1 = mamba_fma(C4.y, h[4 * q + 1], y1);
        y2 = mamba_fma(C4.z, h[4 * q + 2], y2);
        y3 = mamba_fma(C4.w, h[4 * q + 3], y3);
      }
      sum[k] = (y0 + y1) + (y2 + y3);
    }
    mamba_sum_and_split<kSteps, kLanes>(sum, lane);
    MAMBA_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const int t = t0 + slice * kOwn + j;
      if (real && t < to) {
        float out = mamba_fma(skip, own_u[j], sum[j]);
        out = kHasZ ? out * mamba_silu(own_z[j]) : out;
        y_at[j * channels] = T((!kHasSpans || t >= begin) && t < end ? out : 0.0f);
      }
    }
    y_at += kSteps * channels;
  }
}

if (real && chunk == chunks - 1) {
  MAMBA_UNROLL
  for (int i = 0; i < kM; ++i) {
    const int n = slice * kM + i;
    if (n < states) {
      state[(int64_t(b) * channels + d) * states + n] = h[i];
    }
  }
}
