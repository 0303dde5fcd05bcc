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
  const int64_t row = (block.batch * in.length + t) * in.channels + block.first;
  for (void* gradient : {out.u, out.delta, out.z}) {
    if (gradient != nullptr) {
      hwy::Prefetch(static_cast<const T*>(gradient) + row);
      hwy::Prefetch(static_cast<const T*>(gradient) + row + block.count - 1);
    }
  }
}

template <typename T>
HWY_INLINE void prepare(const scan::Inputs& in, const cpu::Rows& cotangent, const ChannelBlock& block, int64_t from,
                        int64_t to, const Chunk& chunk) {
  const FloatTag d;
  const FloatVec one = hn::Set(d, 1.0f);
  if (block.count % kGroup != 0) {
    std::fill_n(chunk.dt, 8 * scan::kKept * scan::kBlock, 0.0f);  // the last group's vectors without channels
  }
  widen_rows<T>(in.B, block.batch, from, to, in.states, chunk.B);
  widen_rows<T>(in.C, block.batch, from, to, in.states, chunk.C);
  for (int64_t t = from; t < to; ++t) {
    const T* delta = in.delta.row<T>(block.batch, t) + block.first;
    const T* u = in.u.row<T>(block.batch, t) + block.first;
    const T* z = in.z.data == nullptr ? nullptr : in.z.row<T>(block.batch, t) + block.first;
    const T* gy_row = cotangent.row<T>(block.batch, t) + block.first;
    for (int64_t c = 0; c < block.count; c += kLanes) {
      const int64_t at = (t - from) * scan::kBlock + c;
      const size_t left = block.lanes_at(c);
      FloatVec dt = hn::Add(load_some(d, delta + c, left), hn::Load(d, block.bias + c));
      FloatVec slope = one;
      if (in.softplus) {
        const auto both = softplus_and_slope(d, dt);
        dt = both.value;
        slope = both.slope;
      }
      const FloatVec uv = load_some(d, u + c, left);
      hn::Store(dt, d, chunk.dt + at);
      hn::Store(slope, d, chunk.slope + at);
      hn::Store(hn::Mul(dt, uv), d, chunk.dtu + at);
      hn::Store(hn::Mul(hn::Load(d, block.D + c), uv), d, chunk.y + at);
      FloatVec gy = load_some(d, gy_row + c, left);
      if (z != nullptr) {
        const FloatVec zv = load_some(d, z + c, left);
        const FloatVec s = sigmoid(d, zv);
        // silu'(z) = s (1 + z (1 - s))
        hn::Store(hn::Mul(gy, hn::Mul(s, hn::MulAdd(zv, hn::Sub(one, s), one))), d, chunk.gate + at);
        gy = hn::Mul(gy, hn::Mul(zv, s));
      }
      hn::Store(gy, d, chunk.gy + at);
    }
  }
}

// The group at channel c: a and h for positions [from, to), and y. chunk.A is the group's, and chunk.h holds the state
// before `from` already.
template <typename T>
HWY_INLINE void recompute(const scan::Inputs& in, const cpu::Rows& cotangent, const scan::Gradients& out,
                          const ChannelBlock& block, const Next& next, int64_t from, int64_t to, int64_t c,
                          const Chunk& chunk) {
  const FloatTag d;
  const int64_t states = in.states;
  for (int64_t i = 0; i < to - from; ++i) {
    const bool reset = block.resets_at(in, from + i);
    if (c == 0) {
      next.prefetch<T>({&in.delta, &in.u, &in.z, &cotangent}, from + i);
    }
    if (c + kGroup >= block.count) {
      prefetch_gradients<T>(in, out, block, from + i);
    }
    const float* B = chunk.B + i * states;
    const float* C = chunk.C + i * states;
    for (int64_t v = 0; v < kVectors; ++v) {
      const int64_t at = i * scan::kBlock + c + v * kLanes;
      const FloatVec dt = hn::Load(d, chunk.dt + at);
      const FloatVec dtu = hn::Load(d, chunk.dtu + at);
      FloatVec y = hn::Load(d, chunk.y + at);
      const float* A = chunk.A + v * kLanes;
      float* decays = chunk.decay + i * states * kGroup + v * kLanes;
      const float* before = chunk.h + i * states * kGroup + v * kLanes;
      float* after = chunk.h + (i + 1) * states * kGroup + v * kLanes;
      for (int64_t n = 0; n < states; ++n) {
        FloatVec state = hn::Mul(dtu, hn::Set(d, B[n]));
        FloatVec decay = hn::Zero(d);
        if (HWY_LIKELY(!reset)) {
          decay = exp2_of_finite(d, hn::Mul(dt, hn::Load(d, A + n * kGroup)));
          state = hn::MulAdd(decay, hn::Load(d, before + n * kGroup), state);
        }
        hn::Store(decay, d, decays + n * kGroup);
        hn::Store(state, d, after + n * kGroup);
        y = hn::MulAdd(state, hn::Set(d, C[n]), y);
      }
      hn::Store(y, d, chunk.y + at);
    }
  }
}

}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_OPS_SELECTIVE_SCAN_CHUNK_INL_H_
