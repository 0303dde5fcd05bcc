// The backward scan on a CPU. With lambda[t] the cotangent of h[t], and a = exp(dt A),
//
//   lambda[t] = C[t] gy[t] + a[t + 1] lambda[t + 1]
//
// runs through time from behind, and every gradient is a sum of products of lambda with what the forward pass knew:
//
//   C: gy h[t]       B: lambda dt u      u: dt sum_n lambda B      dt: sum_n lambda (a A h[t - 1] + u B)
//   A: lambda dt a h[t - 1]              initial state: a[0] lambda[0]
//
// The states are not stored: from the one that forward kept per chunk of kKept positions, a chunk's a and h are
// computed again for a group of channels (which fits into the second-level cache), then walked through backwards.
// Chunks are done from the last to the first; within one, blocks of channels run in parallel. B and C serve all
// channels, so each block writes its share of their gradients, and the shares are added in the order of the blocks:
// no sum depends on which thread did what.

#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/selective_scan/cpu_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/lanes-inl.h"
#include "mamba/ops/selective_scan/block-inl.h"
#include "mamba/ops/selective_scan/chunk-inl.h"
#include "mamba/ops/selective_scan/ends-inl.h"
#include "mamba/ops/selective_scan/kernel.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

using scan::kBlock;
using scan::kKept;

constexpr float kLn2 = 0.69314718055994531f;

scan::Workspace divide(const scan::Inputs& in, float* memory) {
  const int64_t blocks = in.batch * scan::num_blocks(in.channels);
  scan::Workspace work;
  const auto address = reinterpret_cast<uintptr_t>(memory);
  work.carry = memory + (64 - address % 64) % 64 / sizeof(float);
  work.A = work.carry + blocks * in.states * kBlock;
  work.D = work.A + blocks * in.states * kBlock;
  work.bias = work.D + blocks * kBlock;
  work.BC = work.bias + blocks * kBlock;
  return work;
}

// sums[j] += the sum of vj's lanes.
HWY_INLINE void add_lanes(FloatVec v0, FloatVec v1, FloatVec v2, FloatVec v3, float* sums) {
  float four[4];
  sum_lanes(FloatTag(), v0, v1, v2, v3, four);
#if HWY_TARGET == HWY_SCALAR
  for (int64_t j = 0; j < 4; ++j) {
    sums[j] += four[j];
  }
#else
  const hn::FixedTag<float, 4> d4;
  hn::StoreU(hn::Add(hn::LoadU(d4, sums), hn::LoadU(d4, four)), d4, sums);
#endif
}

// A group's (N, kGroup) from or to a block's (N, kBlock).
void copy_group(int64_t states, const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  for (int64_t n = 0; n < states; ++n) {
    std::copy_n(from + n * from_stride, kGroup, to + n * to_stride);
  }
}

// What a group of channels has at one position. Pointers are to the first of its numbers: of a (N, kGroup) where there
// is one for each state.
struct Position {
  const float* B;  // (N)
  const float* C;  // (N)
  const float* gy;
  const float* dt;
  const float* dtu;
  const float* decay;
  const float* before;  // the states before, then those after
  float* gdt;
  float* gbu;
  float* gBC;  // (2 N): the group's share is added
};

// All states of a group at one position. A function by itself, or the compiler runs out of registers; it has all sums
// over states in some, and four states' sums over channels, which are added up across lanes together.
__attribute__((noinline)) void step_back(int64_t states, const Position& at, const float* HWY_RESTRICT A,
                                         float* HWY_RESTRICT carry, float* HWY_RESTRICT gA) {
  const FloatTag d;
  const float* HWY_RESTRICT decay = at.decay;
  const float* HWY_RESTRICT before = at.before;
  const float* HWY_RESTRICT after = before + states * kGroup;
  FloatVec gy[kVectors], dt[kVectors], dtu[kVectors], gdt[kVectors], gbu[kVectors];
  MAMBA_CPU_UNROLL(16)
  for (int64_t v = 0; v < kVectors; ++v) {
    gy[v] = hn::Load(d, at.gy + v * kLanes);
    dt[v] = hn::Load(d, at.dt + v * kLanes);
    dtu[v] = hn::Load(d, at.dtu + v * kLanes);
    gdt[v] = hn::Zero(d);
    gbu[v] = hn::Zero(d);
  }
  const auto one = [&](int64_t n, FloatVec& gB, FloatVec& gC) HWY_ATTR {
    const FloatVec Bn = hn::Set(d, at.B[n]);
    const FloatVec Cn = hn::Set(d, at.C[n]);
    gB = hn::Zero(d);
    gC = hn::Zero(d);
    MAMBA_CPU_UNROLL(16)
    for (int64_t v = 0; v < kVectors; ++v) {
      const int64_t i = n * kGroup + v * kLanes;
      const FloatVec lambda = hn::MulAdd(gy[v], Cn, hn::Load(d, carry + i));
      gC = hn::MulAdd(gy[v], hn::Load(d, after + i), gC);
      gB = hn::MulAdd(lambda, dtu[v], gB);
      gbu[v] = hn::MulAdd(lambda, Bn, gbu[v]);
      const FloatVec back = hn::Mul(lambda, hn::Load(d, decay + i));
      const FloatVec through = hn::Mul(back, hn::Load(d, before + i));
      gdt[v] = hn::MulAdd(through, hn::Load(d, A + i), gdt[v]);
      hn::Store(hn::MulAdd(through, dt[v], hn::Load(d, gA + i)), d, gA + i);
      hn::Store(back, d, carry + i);
    }
  };
  int64_t n = 0;
  for (; n + 4 <= states; n += 4) {
    FloatVec gB0, gB1, gB2, gB3, gC0, gC1, gC2, gC3;
    one(n, gB0, gC0);
    one(n + 1, gB1, gC1);
    one(n + 2, gB2, gC2);
    one(n + 3, gB3, gC3);
    add_lanes(gB0, gB1, gB2, gB3, at.gBC + n);
    add_lanes(gC0, gC1, gC2, gC3, at.gBC + states + n);
  }
  for (; n < states; ++n) {
    FloatVec gB, gC;
    one(n, gB, gC);
    at.gBC[n] += hn::GetLane(hn::SumOfLanes(d, gB));
    at.gBC[states + n] += hn::GetLane(hn::SumOfLanes(d, gC));
  }
  MAMBA_CPU_UNROLL(16)
  for (int64_t v = 0; v < kVectors; ++v) {
    hn::Store(gdt[v], d, at.gdt + v * kLanes);
    hn::Store(gbu[v], d, at.gbu + v * kLanes);
  }
}

// The group at channel c, from the last of `count` positions to the first. `carry` and `gA` are the block's.
void walk_back(int64_t states, int64_t count, int64_t c, const Chunk& chunk, float* carry, float* gA, float* BC) {
  copy_group(states, carry + c, kBlock, chunk.carry, kGroup);
  copy_group(states, gA + c, kBlock, chunk.gA, kGroup);
  for (int64_t i = count; i-- > 0;) {
    const int64_t at = i * kBlock + c;
    step_back(states,
              {.B = chunk.B + i * states,
               .C = chunk.C + i * states,
               .gy = chunk.gy + at,
               .dt = chunk.dt + at,
               .dtu = chunk.dtu + at,
               .decay = chunk.decay + i * states * kGroup,
               .before = chunk.h + i * states * kGroup,
               .gdt = chunk.gdt + at,
               .gbu = chunk.gbu + at,
               .gBC = BC + i * 2 * states},
              chunk.A, chunk.carry, chunk.gA);
  }
  copy_group(states, chunk.carry, kGroup, carry + c, kBlock);
  copy_group(states, chunk.gA, kGroup, gA + c, kBlock);
}

template <typename T>
void finish(const scan::Inputs& in, const scan::Gradients& out, const ChannelBlock& block, int64_t from, int64_t to,
            const Chunk& chunk, float* gD, float* gbias) {
  const FloatTag d;
  for (int64_t c = 0; c < block.count; c += kLanes) {
    const size_t left = block.lanes_at(c);
    const FloatVec D = hn::Load(d, block.D + c);
    FloatVec sum_D = hn::Load(d, gD + c);
    FloatVec sum_bias = hn::Load(d, gbias + c);
    const int64_t first = (block.batch * in.length + from) * in.channels + block.first + c;
    T* HWY_RESTRICT gu_row = static_cast<T*>(out.u) + first;
    T* HWY_RESTRICT gdelta_row = static_cast<T*>(out.delta) + first;
    const int64_t first_z = (block.batch * in.length + from) * out.z_stride + block.first + c;
    T* HWY_RESTRICT gz_row = out.z == nullptr ? nullptr : static_cast<T*>(out.z) + first_z;
    const T* HWY_RESTRICT u_row = in.u.row<T>(block.batch, from) + block.first + c;
    for (int64_t at = c; at < (to - from) * kBlock; at += kBlock) {
      const FloatVec u = load_some(d, u_row, left);
      const FloatVec gy = hn::Load(d, chunk.gy + at);
      const FloatVec gbu = hn::Load(d, chunk.gbu + at);
      store_some(d, hn::MulAdd(hn::Load(d, chunk.dt + at), gbu, hn::Mul(gy, D)), gu_row, left);
      // block.A is A log2(e), which ln(2) undoes.
      const FloatVec gdt = hn::MulAdd(hn::Load(d, chunk.gdt + at), hn::Set(d, kLn2), hn::Mul(u, gbu));
      const FloatVec gdelta = hn::Mul(gdt, hn::Load(d, chunk.slope + at));
      store_some(d, gdelta, gdelta_row, left);
      if (gz_row != nullptr) {
        store_some(d, hn::Mul(hn::Load(d, chunk.gate + at), hn::Load(d, chunk.y + at)), gz_row, left);
        gz_row += out.z_stride;
      }
      sum_D = hn::MulAdd(gy, u, sum_D);
      sum_bias = hn::Add(gdelta, sum_bias);
      u_row += in.u.row_stride;
      gu_row += in.channels;
      gdelta_row += in.channels;
    }
    hn::Store(sum_D, d, gD + c);
    hn::Store(sum_bias, d, gbias + c);
  }
}

template <typename T>
void clear_rows(const scan::Inputs& in, const scan::Gradients& out, const ChannelBlock& block, int64_t from,
                int64_t to) {
  for (int64_t t = from; t < to; ++t) {
    const int64_t position = block.batch * in.length + t;
    const auto clear = [&](void* gradient, int64_t stride) {
      std::fill_n(static_cast<T*>(gradient) + position * stride + block.first, block.count, T(0.0f));
    };
    clear(out.u, in.channels);
    clear(out.delta, in.channels);
    if (out.z != nullptr) {
      clear(out.z, out.z_stride);
    }
  }
}

// Positions [t0, t1) of one block.
template <typename T>
void chunk_back(const scan::Inputs& in, const scan::Cotangents& cotangents, const scan::Gradients& out,
                const scan::Workspace& work, int64_t t0, int64_t t1, int64_t b, int64_t index, bool neighbour_follows) {
  const int64_t states = in.states;
  const int64_t state_floats = states * kBlock;
  float* memory = cpu::scratch(
      static_cast<size_t>(state_floats + ChannelBlock::floats(states) + Chunk::floats(states) + Chunk::kPage));
  float* start = memory;
  const ChannelBlock block(in, b, index, start + state_floats);
  memory = start + state_floats + ChannelBlock::floats(states);
  const auto beyond = static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory) / sizeof(float) % Chunk::kPage);
  const Chunk chunk(states, memory + (Chunk::kPage - beyond) % Chunk::kPage);
  ChannelBlock neighbour = block;  // only where it lies is used
  neighbour.first += kBlock;
  neighbour.count = std::min(kBlock, in.channels - neighbour.first);
  const Next next{neighbour_follows && neighbour.count > 0 ? &neighbour : nullptr, 0};
  const int64_t task = b * scan::num_blocks(in.channels) + index;
  const int64_t from = std::clamp(block.begin, t0, t1);
  const int64_t to = std::clamp(block.end, from, t1);
  clear_rows<T>(in, out, block, t0, from);
  clear_rows<T>(in, out, block, to, t1);
  float* BC = work.BC + task * kKept * 2 * states;
  std::fill_n(BC, kKept * 2 * states, 0.0f);
  if (from == to) {
    return;
  }
  if (t0 == 0) {
    block.load_initial_state(in, start);
  } else {
    std::memcpy(start, cotangents.kept + block.kept_offset(in, t0 / kKept - 1),
                static_cast<size_t>(state_floats) * sizeof(float));
  }
  prepare<T>(in, cotangents.y, block, from, to, chunk);
  for (int64_t c = 0; c < block.count; c += kGroup) {
    copy_group(states, start + c, kBlock, chunk.h, kGroup);
    copy_group(states, block.A + c, kBlock, chunk.A, kGroup);
    recompute<T>(in, cotangents.y, out, block, next, from, to, c, chunk);
    walk_back(states, to - from, c, chunk, work.carry + task * state_floats, work.A + task * state_floats,
              BC + (from - t0) * 2 * states);
  }
  finish<T>(in, out, block, from, to, chunk, work.D + task * kBlock, work.bias + task * kBlock);
}

// Gradients of B and C at position t of row b: the blocks' shares, added in order.
template <typename T>
void add_blocks(const scan::Inputs& in, const scan::Gradients& out, const scan::Workspace& work, int64_t b, int64_t t,
                int64_t t0) {
  const FloatTag d;
  const int64_t blocks = scan::num_blocks(in.channels);
  const int64_t states = in.states;
  const float* first = work.BC + (b * blocks * kKept + t - t0) * 2 * states;
  const int64_t stride = kKept * 2 * states;
  for (int which = 0; which < 2; ++which) {
    T* row = static_cast<T*>(which == 0 ? out.B : out.C) + (b * in.length + t) * out.BC_stride;
    for (int64_t n = 0; n < states; n += kLanes) {
      const size_t left = static_cast<size_t>(states - n);
      FloatVec sum = hn::Zero(d);
      for (int64_t block = 0; block < blocks; ++block) {
        sum = hn::Add(sum, load_some(d, first + block * stride + which * states + n, left));
      }
      store_some(d, sum, row + n, left);
    }
  }
}

// Positions [t0, t1) of all blocks as two loops: their gradients, then the sums over blocks.
template <typename T>
struct ChunkLoops {
  const scan::Inputs* in;
  const scan::Cotangents* cotangents;
  const scan::Gradients* out;
  const scan::Workspace* work;
  int64_t t0, t1;

  void walk(int64_t begin, int64_t end) {
    const int64_t blocks = scan::num_blocks(in->channels);
    for (int64_t task = begin; task < end; ++task) {
      // Neighbouring blocks share pages, and the next one's rows are fetched in time.
      chunk_back<T>(*in, *cotangents, *out, *work, t0, t1, task / blocks, task % blocks, task + 1 < end);
    }
  }

  void add(int64_t begin, int64_t end) {
    const int64_t count = t1 - t0;
    for (int64_t i = begin; i < end; ++i) {
      add_blocks<T>(*in, *out, *work, i / count, t0 + i % count, t0);
    }
  }
};

// All chunks in one go: threads need not be joined between them, and each comes back to its own blocks, whose sums are
// near it.
template <typename T>
void chunks_back(const scan::Inputs& in, const scan::Cotangents& cotangents, const scan::Gradients& out,
                 const scan::Workspace& work) {
  constexpr int64_t kPositionsAtOnce = 16;
  const int64_t blocks = scan::num_blocks(in.channels);
  const auto chunks = static_cast<size_t>(scan::num_kept(in.length) + 1);
  std::vector<ChunkLoops<T>> loops;
  std::vector<Phase> phases;
  loops.reserve(chunks);
  phases.reserve(2 * chunks);
  for (int64_t t0 = scan::num_kept(in.length) * kKept; t0 >= 0; t0 -= kKept) {
    const int64_t t1 = std::min(t0 + kKept, in.length);
    loops.push_back({&in, &cotangents, &out, &work, t0, t1});
    phases.push_back({.count = in.batch * blocks, .grain = 1, .body = RangeFn::to<&ChunkLoops<T>::walk>(loops.back())});
    phases.push_back({.count = in.batch * (t1 - t0),
                      .grain = kPositionsAtOnce,
                      .body = RangeFn::to<&ChunkLoops<T>::add>(loops.back())});
  }
  parallel_phases(phases);
}

void scan_backward(const scan::Inputs& in, const scan::Cotangents& cotangents, const scan::Gradients& out) {
  constexpr int64_t kBlocksAtOnce = 8;
  const scan::Workspace work = divide(in, out.workspace);
  const int64_t blocks = scan::num_blocks(in.channels);
  parallel_for(in.batch * blocks, kBlocksAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      start_block(in, cotangents, work, task);
    }
  });
  if (in.batch * blocks * in.length > 0) {
    cpu::visit(in.element, [&](auto type) { chunks_back<decltype(type)>(in, cotangents, out, work); });
  }
  parallel_for(blocks, kBlocksAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      end_block(in, out, work, index);
    }
  });
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops {
HWY_EXPORT(scan_backward);

void scan::backward(const Inputs& in, const Cotangents& cotangents, const Gradients& out) {
  HWY_DYNAMIC_DISPATCH(scan_backward)(in, cotangents, out);
}

}  // namespace mamba::ops
#endif
