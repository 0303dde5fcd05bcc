// The forward scan on a CPU. A task is one row of the batch and one block of channels, and walks through time. A vector
// lane is a channel, so the recurrence needs no communication between lanes: B and C are broadcast, and A and the state
// lie transposed in the thread's scratch memory, which stays in the first-level cache. Time is cut into tiles; for each
// tile one pass prepares dt and dt * u, one runs the recurrence, one applies the gate. That keeps the inner loop to the
// exponential and two fused multiply-adds per state, about 25 instructions, and lets the long dependency chains of
// softplus and silu overlap across positions.
//
// Every lane does the same arithmetic in the same order wherever tiles, blocks and vectors begin, so results do not
// depend on any of them.

#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/selective_scan/cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "mamba/base/threads.h"
#include "mamba/ops/selective_scan/block-inl.h"
#include "mamba/ops/selective_scan/kernel.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

using scan::kBlock;
using scan::kKept;

constexpr int64_t kTile = 32;
static_assert(kKept % kTile == 0, "kept states lie at the start of a tile");

struct Tile {
  float* dt;   // (kTile, kBlock)
  float* dtu;  // (kTile, kBlock)
  float* y;    // (kTile, kBlock)
  float* B;    // (kTile, N)
  float* C;    // (kTile, N)

  static int64_t floats(int64_t states) { return kTile * (3 * kBlock + 2 * states); }

  Tile(int64_t states, float* memory)
      : dt(memory), dtu(dt + kTile * kBlock), y(dtu + kTile * kBlock), B(y + kTile * kBlock), C(B + kTile * states) {}
};

template <typename T>
void prepare(const scan::Inputs& in, const ChannelBlock& block, int64_t from, int64_t to, const Tile& tile) {
  const FloatTag d;
  widen_rows<T>(in.B, block.batch, from, to, in.states, tile.B);
  widen_rows<T>(in.C, block.batch, from, to, in.states, tile.C);
  for (int64_t t = from; t < to; ++t) {
    const T* delta = in.delta.row<T>(block.batch, t) + block.first;
    const T* u = in.u.row<T>(block.batch, t) + block.first;
    const int64_t row = (t - from) * kBlock;
    for (int64_t c = 0; c < block.count; c += static_cast<int64_t>(hn::Lanes(d))) {
      FloatVec dt = hn::Add(load_some(d, delta + c, block.lanes_at(c)), hn::Load(d, block.bias + c));
      if (in.softplus) {
        dt = softplus(d, dt);
      }
      const FloatVec uv = load_some(d, u + c, block.lanes_at(c));
      hn::Store(dt, d, tile.dt + row + c);
      hn::Store(hn::Mul(dt, uv), d, tile.dtu + row + c);
      hn::Store(hn::Mul(hn::Load(d, block.D + c), uv), d, tile.y + row + c);
    }
  }
}

// One position of one vector of channels: h in place, and y with the states' part added.
HWY_INLINE FloatVec update(FloatTag d, int64_t states, FloatVec dt, FloatVec dtu, FloatVec y,
                           const float* HWY_RESTRICT A, const float* HWY_RESTRICT B, const float* HWY_RESTRICT C,
                           float* HWY_RESTRICT h) {
  for (int64_t n = 0; n < states; ++n) {
    const FloatVec decay = exp2_normal(d, hn::Mul(dt, hn::Load(d, A + n * kBlock)));
    const FloatVec next = hn::MulAdd(decay, hn::Load(d, h + n * kBlock), hn::Mul(dtu, hn::Set(d, B[n])));
    hn::Store(next, d, h + n * kBlock);
    y = hn::MulAdd(next, hn::Set(d, C[n]), y);
  }
  return y;
}

void recur(const scan::Inputs& in, const ChannelBlock& block, int64_t from, int64_t to, const Tile& tile, float* h) {
  const FloatTag d;
  const int64_t states = in.states;
  for (int64_t c = 0; c < block.count; c += static_cast<int64_t>(hn::Lanes(d))) {
    for (int64_t t = from; t < to; ++t) {
      if (block.resets_at(in, t)) {
        for (int64_t n = 0; n < states; ++n) {
          hn::Store(hn::Zero(d), d, h + n * kBlock + c);
        }
      }
      const int64_t i = t - from;
      const int64_t at = i * kBlock + c;
      const FloatVec y = update(d, states, hn::Load(d, tile.dt + at), hn::Load(d, tile.dtu + at),
                                hn::Load(d, tile.y + at), block.A + c, tile.B + i * states, tile.C + i * states, h + c);
      hn::Store(y, d, tile.y + at);
    }
  }
}

template <typename T>
void finish(const scan::Inputs& in, const ChannelBlock& block, int64_t from, int64_t to, const Tile& tile, T* y) {
  const FloatTag d;
  for (int64_t t = from; t < to; ++t) {
    const T* z = in.z.data == nullptr ? nullptr : in.z.row<T>(block.batch, t) + block.first;
    T* out = y + (block.batch * in.length + t) * in.channels + block.first;
    for (int64_t c = 0; c < block.count; c += static_cast<int64_t>(hn::Lanes(d))) {
      FloatVec v = hn::Load(d, tile.y + (t - from) * kBlock + c);
      if (z != nullptr) {
        v = hn::Mul(v, silu(d, load_some(d, z + c, block.lanes_at(c))));
      }
      store_some(d, v, out + c, block.lanes_at(c));
    }
  }
}

template <typename T>
void scan_block(const scan::Inputs& in, const scan::Outputs& out, int64_t b, int64_t index) {
  const int64_t states = in.states;
  const size_t state_floats = static_cast<size_t>(states * kBlock);
  float* h = cpu::scratch(state_floats + static_cast<size_t>(ChannelBlock::floats(states) + Tile::floats(states)));
  const ChannelBlock block(in, b, index, h + state_floats);
  const Tile tile(states, h + state_floats + ChannelBlock::floats(states));
  T* y = static_cast<T*>(out.y);
  block.load_initial_state(in, h);
  for (int64_t t0 = 0; t0 < in.length; t0 += kTile) {
    if (t0 > 0 && t0 % kKept == 0) {
      std::memcpy(out.kept + block.kept_offset(in, t0 / kKept - 1), h, state_floats * sizeof(float));
    }
    const int64_t t1 = std::min(t0 + kTile, in.length);
    const int64_t from = std::clamp(block.begin, t0, t1);
    const int64_t to = std::clamp(block.end, from, t1);
    for (int64_t t = t0; t < t1; ++t) {
      if (t < from || t >= to) {
        std::fill_n(y + (b * in.length + t) * in.channels + block.first, block.count, T(0.0f));
      }
    }
    if (from < to) {
      prepare<T>(in, block, from, to, tile);
      recur(in, block, from, to, tile, h);
      finish<T>(in, block, from, to, tile, y);
    }
  }
  transpose(h, kBlock, states, block.count, out.state + (b * in.channels + block.first) * states, states);
}

void forward(const scan::Inputs& in, const scan::Outputs& out) {
  const int64_t blocks = scan::num_blocks(in.channels);
  // A range is worth handing to another thread from about 5 us of work on.
  const int64_t grain = std::max<int64_t>(1, 8192 / ((in.length + 1) * in.states * kBlock));
  cpu::visit(in.element, [&](auto type) {
    parallel_for(in.batch * blocks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        scan_block<decltype(type)>(in, out, task / blocks, task % blocks);
      }
    });
  });
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops {
HWY_EXPORT(forward);

void scan::forward(const Inputs& in, const Outputs& out) {
  HWY_DYNAMIC_DISPATCH(ops::forward)(in, out);
}

}  // namespace mamba::ops
#endif
