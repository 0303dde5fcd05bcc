// What the backward scan knows of one chunk of time before it walks through it from behind. Highway per-target header.

#if defined(MAMBA_OPS_SELECTIVE_SCAN_CHUNK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_OPS_SELECTIVE_SCAN_CHUNK_INL_H_
#undef MAMBA_OPS_SELECTIVE_SCAN_CHUNK_INL_H_
#else
#define MAMBA_OPS_SELECTIVE_SCAN_CHUNK_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>

#include "mamba/ops/cpu/floats-inl.h"
#include "mamba/ops/cpu/math-inl.h"
#include "mamba/ops/cpu/prefetch.h"
#include "mamba/ops/selective_scan/block-inl.h"
#include "mamba/ops/selective_scan/kernel.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {

constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(FloatTag()));
// Channels whose states are recomputed together. Two vectors share the work of adding up B's and C's gradients.
constexpr int64_t kGroup = std::max<int64_t>(16, std::min<int64_t>(2 * kLanes, scan::kBlock));
constexpr int64_t kVectors = kGroup / kLanes;

// One chunk of one block of channels: (scan::kKept, scan::kBlock) each unless said otherwise.
//
// A processor may take a load for one of what a store in flight has written where their addresses agree in the last 12
// bits, and lets it wait: walking back by itself took 10 to 20 cycles a state, depending on where these arrays lay. So
// what is read and written for one state after the other (A, carry, gA, decay, h) begins at multiples of a page, as a
// Chunk's memory has to. Then a load agrees with the store for the same state, one position ago, which is done.
struct Chunk {
  float* carry;  // (N, kGroup): of the group that is worked on
  float* gA;     // (N, kGroup)
  float* A;      // (N, kGroup)
  float* decay;  // (scan::kKept, N, kGroup)
  float* h;      // (scan::kKept + 1, N, kGroup): h[i] is the state before the chunk's position i
  float* dt;
  float* dtu;    // dt * u
  float* slope;  // of softplus
  float* gy;     // cotangent of the sum over the states: behind the gate
  float* gate;   // cotangent of z, less the factor y
  float* y;
  float* gdt;  // sum_n lambda a A h
  float* gbu;  // sum_n lambda B
  float* B;    // (scan::kKept, N)
  float* C;    // (scan::kKept, N)

  static constexpr int64_t kPage = 1024;  // floats
  static int64_t pages(int64_t floats) { return (floats + kPage - 1) / kPage * kPage; }

  static int64_t floats(int64_t states) {
    const int64_t row = states * kGroup;
    return 3 * pages(row) + pages(scan::kKept * row) + (scan::kKept + 1) * row +
           scan::kKept * (8 * scan::kBlock + 2 * states);
  }

  // `memory` begins a page.
  Chunk(int64_t states, float* memory) {
    const int64_t row = states * kGroup;
    for (float** part : {&carry, &gA, &A}) {
      *part = memory;
      memory += pages(row);
    }
    decay = memory;
    h = decay + pages(scan::kKept * row);
    memory = h + (scan::kKept + 1) * row;
    for (float** rows : {&dt, &dtu, &slope, &gy, &gate, &y, &gdt, &gbu}) {
      *rows = memory;
      memory += scan::kKept * scan::kBlock;
    }
    B = memory;
    C = B + scan::kKept * states;
  }
};

// Asks for the lines that gradients of a block's position t are written to, so that writing them waits for none.
template <typename T>
HWY_INLINE void prefetch_gradients(const scan::Inputs& in, const scan::Gradients& out, const ChannelBlock& block,
                                   int64_t t) {
  const int64_t position = block.batch * in.length + t;
  const auto prefetch = [&](const void* gradient, int64_t stride) {
    const T* const row = static_cast<const T*>(gradient) + position * stride + block.first;
    cpu::prefetch_to_write(row);
    cpu::prefetch_to_write(row + block.count - 1);
  };
  prefetch(out.u, in.channels);
  prefetch(out.delta, in.channels);
  if (out.z != nullptr) {
    prefetch(out.z, out.z_stride);
  }
}

// Vectors of rows t ... at channels c ..., step by step together: each by itself is a long chain.
template <typename T, int kCount>
HWY_INLINE void prepare_vectors(const scan::Inputs& in, const cpu::Rows& cotangent, const ChannelBlock& block,
                                int64_t from, const int64_t (&t)[kCount], const int64_t (&c)[kCount],
                                const Chunk& chunk) {
  const FloatTag d;
  const FloatVec one = hn::Set(d, 1.0f);
  const auto load_row = [&](const cpu::Rows& rows, int i) HWY_ATTR {
    return load_some(d, rows.row<T>(block.batch, t[i]) + block.first + c[i], block.lanes_at(c[i]));
  };
  int64_t at[kCount];
  FloatVec dt[kCount], slope[kCount];
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    at[i] = (t[i] - from) * scan::kBlock + c[i];
    dt[i] = hn::Add(load_row(in.delta, i), hn::Load(d, block.bias + c[i]));
    slope[i] = one;
  }
  if (in.softplus) {
    softplus_and_slope_each(d, dt, slope);
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    const FloatVec u = load_row(in.u, i);
    hn::Store(dt[i], d, chunk.dt + at[i]);
    hn::Store(slope[i], d, chunk.slope + at[i]);
    hn::Store(hn::Mul(dt[i], u), d, chunk.dtu + at[i]);
    hn::Store(hn::Mul(hn::Load(d, block.D + c[i]), u), d, chunk.y + at[i]);
  }
  FloatVec gy[kCount];
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    gy[i] = load_row(cotangent, i);
  }
  if (in.z.data != nullptr) {
    FloatVec z[kCount], s[kCount];
    MAMBA_CPU_UNROLL(8)
    for (int i = 0; i < kCount; ++i) {
      z[i] = load_row(in.z, i);
      s[i] = z[i];
    }
    sigmoid_each(d, s);
    MAMBA_CPU_UNROLL(8)
    for (int i = 0; i < kCount; ++i) {
      // silu'(z) = s (1 + z (1 - s))
      const FloatVec gate = hn::Mul(s[i], hn::MulAdd(z[i], hn::Sub(one, s[i]), one));
      hn::Store(hn::Mul(gy[i], gate), d, chunk.gate + at[i]);
      gy[i] = hn::Mul(gy[i], hn::Mul(z[i], s[i]));
    }
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    hn::Store(gy[i], d, chunk.gy + at[i]);
  }
}

template <typename T>
HWY_INLINE void prepare(const scan::Inputs& in, const cpu::Rows& cotangent, const ChannelBlock& block, int64_t from,
                        int64_t to, const Chunk& chunk) {
  if (block.count % kGroup != 0) {
    std::fill_n(chunk.dt, 8 * scan::kKept * scan::kBlock, 0.0f);  // the last group's vectors without channels
  }
  widen_rows<T>(in.B, block.batch, from, to, in.states, chunk.B);
  widen_rows<T>(in.C, block.batch, from, to, in.states, chunk.C);
  int64_t t = from;
  for (; t + 1 < to; t += 2) {
    int64_t c = 0;
    for (; c + kLanes < block.count; c += 2 * kLanes) {
      prepare_vectors<T, 4>(in, cotangent, block, from, {t, t, t + 1, t + 1}, {c, c + kLanes, c, c + kLanes}, chunk);
    }
    for (; c < block.count; c += kLanes) {
      prepare_vectors<T, 2>(in, cotangent, block, from, {t, t + 1}, {c, c}, chunk);
    }
  }
  for (int64_t c = 0; t < to && c < block.count; c += kLanes) {
    prepare_vectors<T, 1>(in, cotangent, block, from, {t}, {c}, chunk);
  }
}

// What a group has at one position on the way through a chunk. Pointers as in walking back.
struct Ahead {
  const float* B;  // (N)
  const float* C;  // (N)
  const float* dt;
  const float* dtu;
  const float* before;  // (N, kGroup)
  float* decay;         // (N, kGroup)
  float* after;         // (N, kGroup)
  float* y;
};

// kCount states of a group at one position.
template <int64_t kCount, bool kReset>
HWY_INLINE void states_ahead(int64_t n, const Ahead& at, const float* HWY_RESTRICT A, const FloatVec (&dt)[kVectors],
                             const FloatVec (&dtu)[kVectors], FloatVec (&y)[kVectors]) {
  const FloatTag d;
  FloatVec decay[kCount * kVectors];
  MAMBA_CPU_UNROLL(16)
  for (int64_t i = 0; i < kCount * kVectors; ++i) {
    const int64_t offset = n * kGroup + i * kLanes;
    decay[i] = kReset ? hn::Zero(d) : hn::Mul(dt[i % kVectors], hn::Load(d, A + offset));
  }
  if (!kReset) {
    exp2_of_finite_each(d, decay);
  }
  MAMBA_CPU_UNROLL(16)
  for (int64_t i = 0; i < kCount * kVectors; ++i) {
    const int64_t offset = n * kGroup + i * kLanes;
    const int64_t v = i % kVectors;
    const int64_t state = n + i / kVectors;
    FloatVec h = hn::Mul(dtu[v], hn::Set(d, at.B[state]));
    if (!kReset) {
      h = hn::MulAdd(decay[i], hn::Load(d, at.before + offset), h);
    }
    hn::Store(decay[i], d, at.decay + offset);
    hn::Store(h, d, at.after + offset);
    y[v] = hn::MulAdd(h, hn::Set(d, at.C[state]), y[v]);
  }
}

// All states of a group at one position. A function by itself, or the compiler runs out of registers.
template <bool kReset>
__attribute__((noinline)) void step_ahead(int64_t states, const Ahead& at, const float* HWY_RESTRICT A) {
  const FloatTag d;
  FloatVec dt[kVectors], dtu[kVectors], y[kVectors];
  MAMBA_CPU_UNROLL(16)
  for (int64_t v = 0; v < kVectors; ++v) {
    dt[v] = hn::Load(d, at.dt + v * kLanes);
    dtu[v] = hn::Load(d, at.dtu + v * kLanes);
    y[v] = hn::Load(d, at.y + v * kLanes);
  }
  int64_t n = 0;
  for (; n + 2 <= states; n += 2) {
    states_ahead<2, kReset>(n, at, A, dt, dtu, y);
  }
  for (; n < states; ++n) {
    states_ahead<1, kReset>(n, at, A, dt, dtu, y);
  }
  MAMBA_CPU_UNROLL(16)
  for (int64_t v = 0; v < kVectors; ++v) {
    hn::Store(y[v], d, at.y + v * kLanes);
  }
}

// The group at channel c: a and h for positions [from, to), and y. chunk.A is the group's, and chunk.h holds the state
// before `from` already.
template <typename T>
HWY_INLINE void recompute(const scan::Inputs& in, const cpu::Rows& cotangent, const scan::Gradients& out,
                          const ChannelBlock& block, const Next& next, int64_t from, int64_t to, int64_t c,
                          const Chunk& chunk) {
  const int64_t states = in.states;
  for (int64_t i = 0; i < to - from; ++i) {
    if (c == 0) {
      next.prefetch<T>({&in.delta, &in.u, &in.z, &cotangent}, from + i);
    }
    if (c + kGroup >= block.count) {
      prefetch_gradients<T>(in, out, block, from + i);
    }
    const int64_t at = i * scan::kBlock + c;
    const Ahead position{.B = chunk.B + i * states,
                         .C = chunk.C + i * states,
                         .dt = chunk.dt + at,
                         .dtu = chunk.dtu + at,
                         .before = chunk.h + i * states * kGroup,
                         .decay = chunk.decay + i * states * kGroup,
                         .after = chunk.h + (i + 1) * states * kGroup,
                         .y = chunk.y + at};
    if (HWY_UNLIKELY(block.resets_at(in, from + i))) {
      step_ahead<true>(states, position, chunk.A);
    } else {
      step_ahead<false>(states, position, chunk.A);
    }
  }
}

}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_OPS_SELECTIVE_SCAN_CHUNK_INL_H_
