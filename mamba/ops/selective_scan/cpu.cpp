// The forward scan on a CPU. A task is one row of the batch and some neighbouring blocks of channels, which walk
// through time together: one tile of time for each block, then the next tile. (A block alone would touch a new page of
// every array at every position; together they use what the page tables and the prefetcher have at hand.) A vector lane
// is a channel, so the recurrence needs no communication between lanes: B and C are broadcast, and A and the state lie
// transposed in the thread's scratch memory, near enough to stay in cache. For each tile one pass prepares dt and dt *
// u, one runs the recurrence, one applies the gate. That keeps the inner loop to the exponential and two fused
// multiply-adds per state, about 25 instructions, and lets the long dependency chains of softplus and silu overlap
// across positions.
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
#include <type_traits>

#include "mamba/base/threads.h"
#include "mamba/ops/selective_scan/block-inl.h"
#include "mamba/ops/selective_scan/kernel.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

using scan::kBlock;
using scan::kKept;

constexpr int64_t kTile = 32;
constexpr int64_t kMaxGroup = 16;
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

constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(FloatTag()));

// A vector of a tile: a position of it, and a channel of the block.
struct Place {
  int64_t row, channel;

  int64_t in_tile() const { return row * kBlock + channel; }
};

// f on all of a tile's vectors, of which `count` channels are real: on kAtOnce of them at a time where rows are whole,
// since each by itself is a long chain.
template <typename F>
HWY_INLINE void for_vectors(int64_t rows, int64_t count, const F& f) {
  constexpr int kAtOnce = 4;
  const int64_t vectors = rows * kBlock / kLanes;
  int64_t i = 0;
  for (; count == kBlock && i + kAtOnce <= vectors; i += kAtOnce) {
    Place at[kAtOnce];
    MAMBA_CPU_UNROLL(4)
    for (int j = 0; j < kAtOnce; ++j) {
      at[j] = {(i + j) * kLanes / kBlock, (i + j) * kLanes % kBlock};
    }
    f(at);
  }
  // Channels that are none lie behind the real ones in a row, initialised or not; so they are left out.
  for (; i < vectors; ++i) {
    const Place at[1] = {{i * kLanes / kBlock, i * kLanes % kBlock}};
    if (at[0].channel < count) {
      f(at);
    }
  }
}

template <typename T>
void prepare(const scan::Inputs& in, const ChannelBlock& block, int64_t from, int64_t to, const Tile& tile) {
  for_vectors(to - from, block.count, [&](const auto& at) HWY_ATTR {
    const FloatTag d;
    constexpr int kCount = std::extent_v<std::remove_reference_t<decltype(at)>>;
    const auto load_row = [&](const cpu::Rows& rows, const Place& place) HWY_ATTR {
      const T* const row = rows.row<T>(block.batch, from + place.row) + block.first;
      return load_some(d, row + place.channel, block.lanes_at(place.channel));
    };
    FloatVec dt[kCount];
    MAMBA_CPU_UNROLL(4)
    for (int j = 0; j < kCount; ++j) {
      dt[j] = hn::Add(load_row(in.delta, at[j]), hn::Load(d, block.bias + at[j].channel));
    }
    if (in.softplus) {
      softplus_each(d, dt);
    }
    MAMBA_CPU_UNROLL(4)
    for (int j = 0; j < kCount; ++j) {
      const FloatVec u = load_row(in.u, at[j]);
      hn::Store(dt[j], d, tile.dt + at[j].in_tile());
      hn::Store(hn::Mul(dt[j], u), d, tile.dtu + at[j].in_tile());
      hn::Store(hn::Mul(hn::Load(d, block.D + at[j].channel), u), d, tile.y + at[j].in_tile());
    }
  });
}

// One position of one vector of channels: h in place, and y with the states' part added.
HWY_INLINE FloatVec update(FloatTag d, int64_t states, FloatVec dt, FloatVec dtu, FloatVec y,
                           const float* HWY_RESTRICT A, const float* HWY_RESTRICT B, const float* HWY_RESTRICT C,
                           float* HWY_RESTRICT h) {
  for (int64_t n = 0; n < states; ++n) {
    const FloatVec decay = exp2_of_finite(d, hn::Mul(dt, hn::Load(d, A + n * kBlock)));
    const FloatVec next = hn::MulAdd(decay, hn::Load(d, h + n * kBlock), hn::Mul(dtu, hn::Set(d, B[n])));
    hn::Store(next, d, h + n * kBlock);
    y = hn::MulAdd(next, hn::Set(d, C[n]), y);
  }
  return y;
}

template <typename T>
void recur(const scan::Inputs& in, const ChannelBlock& block, const Next& next, int64_t from, int64_t to,
           const Tile& tile, float* h) {
  const FloatTag d;
  const int64_t states = in.states;
  for (int64_t c = 0; c < block.count; c += static_cast<int64_t>(hn::Lanes(d))) {
    for (int64_t t = from; t < to; ++t) {
      if (c == 0) {
        next.prefetch<T>({&in.delta, &in.u, &in.z}, t);
      }
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
  T* const out = y + (block.batch * in.length + from) * in.channels + block.first;
  for_vectors(to - from, block.count, [&](const auto& at) HWY_ATTR {
    const FloatTag d;
    constexpr int kCount = std::extent_v<std::remove_reference_t<decltype(at)>>;
    FloatVec v[kCount];
    MAMBA_CPU_UNROLL(4)
    for (int j = 0; j < kCount; ++j) {
      v[j] = hn::Load(d, tile.y + at[j].in_tile());
    }
    if (in.z.data != nullptr) {
      FloatVec gate[kCount];
      MAMBA_CPU_UNROLL(4)
      for (int j = 0; j < kCount; ++j) {
        const T* const z = in.z.row<T>(block.batch, from + at[j].row) + block.first;
        gate[j] = load_some(d, z + at[j].channel, block.lanes_at(at[j].channel));
      }
      silu_each(d, gate);
      MAMBA_CPU_UNROLL(4)
      for (int j = 0; j < kCount; ++j) {
        v[j] = hn::Mul(v[j], gate[j]);
      }
    }
    MAMBA_CPU_UNROLL(4)
    for (int j = 0; j < kCount; ++j) {
      store_some(d, v[j], out + at[j].row * in.channels + at[j].channel, block.lanes_at(at[j].channel));
    }
  });
}

// Positions [t0, t1) of one block; `h` is its state.
template <typename T>
void scan_tile(const scan::Inputs& in, const scan::Outputs& out, const ChannelBlock& block, const Next& next,
               int64_t t0, int64_t t1, const Tile& tile, float* h) {
  T* y = static_cast<T*>(out.y);
  if (out.kept != nullptr && t0 > 0 && t0 % kKept == 0) {
    const size_t bytes = static_cast<size_t>(in.states * kBlock) * sizeof(float);
    std::memcpy(out.kept + block.kept_offset(in, t0 / kKept - 1), h, bytes);
  }
  const int64_t from = std::clamp(block.begin, t0, t1);
  const int64_t to = std::clamp(block.end, from, t1);
  for (int64_t t = t0; t < t1; ++t) {
    if (t < from || t >= to) {
      std::fill_n(y + (block.batch * in.length + t) * in.channels + block.first, block.count, T(0.0f));
    }
  }
  if (from < to) {
    prepare<T>(in, block, from, to, tile);
    recur<T>(in, block, next, from, to, tile, h);
    finish<T>(in, block, from, to, tile, y);
  }
}

// `count` neighbouring blocks of row b.
template <typename T>
void scan_group(const scan::Inputs& in, const scan::Outputs& out, int64_t b, int64_t first, int64_t count) {
  const int64_t states = in.states;
  const int64_t block_floats = states * kBlock + ChannelBlock::floats(states);
  float* memory = cpu::scratch(static_cast<size_t>(count * block_floats + Tile::floats(states)));
  const Tile tile(states, memory + count * block_floats);
  const auto state = [&](int64_t i) { return memory + i * block_floats; };
  ChannelBlock blocks[kMaxGroup];
  for (int64_t i = 0; i < count; ++i) {
    blocks[i] = ChannelBlock(in, b, first + i, state(i) + states * kBlock);
    blocks[i].load_initial_state(in, state(i));
  }
  for (int64_t t0 = 0; t0 < in.length; t0 += kTile) {
    const int64_t t1 = std::min(t0 + kTile, in.length);
    // The same for all blocks, whose span is that of their row of the batch.
    const int64_t from = std::clamp(blocks[0].begin, t0, t1);
    const int64_t to = std::clamp(blocks[0].end, from, t1);
    widen_rows<T>(in.B, b, from, to, states, tile.B);
    widen_rows<T>(in.C, b, from, to, states, tile.C);
    for (int64_t i = 0; i < count; ++i) {
      const Next next = i + 1 < count ? Next{&blocks[i + 1], 0} : Next{&blocks[0], kTile};
      scan_tile<T>(in, out, blocks[i], next, t0, t1, tile, state(i));
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    transpose(state(i), kBlock, states, blocks[i].count, out.state + (b * in.channels + blocks[i].first) * states,
              states);
  }
}

int64_t block_updates(const scan::Inputs& in) {
  return (in.length + 1) * in.states * kBlock;
}

// A range is worth handing to another thread from about 5 us of work on, and a few ranges per thread even out.
int64_t blocks_per_group(const scan::Inputs& in) {
  const int64_t blocks = scan::num_blocks(in.channels);
  const int64_t even = in.batch * blocks / (4 * num_threads());
  return std::clamp<int64_t>(std::max(8192 / block_updates(in), even), 1, std::min(kMaxGroup, blocks));
}

void scan_tasks(const scan::Inputs& in, const scan::Outputs& out, int64_t begin, int64_t end) {
  const int64_t blocks = scan::num_blocks(in.channels);
  const int64_t group = blocks_per_group(in);
  const int64_t groups = (blocks + group - 1) / group;
  cpu::visit(in.element, [&](auto type) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % groups * group;
      scan_group<decltype(type)>(in, out, task / groups, first, std::min(group, blocks - first));
    }
  });
}

int64_t count_tasks(const scan::Inputs& in) {
  const int64_t group = blocks_per_group(in);
  return in.batch * ((scan::num_blocks(in.channels) + group - 1) / group);
}

void forward(const scan::Inputs& in, const scan::Outputs& out) {
  const int64_t grain = std::max<int64_t>(1, 8192 / (blocks_per_group(in) * block_updates(in)));
  parallel_for(count_tasks(in), grain, [&](int64_t begin, int64_t end) { scan_tasks(in, out, begin, end); });
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops {
HWY_EXPORT(forward);
HWY_EXPORT(scan_tasks);
HWY_EXPORT(count_tasks);

void scan::forward(const Inputs& in, const Outputs& out) {
  HWY_DYNAMIC_DISPATCH(ops::forward)(in, out);
}

int64_t scan::num_tasks(const Inputs& in) {
  return HWY_DYNAMIC_DISPATCH(ops::count_tasks)(in);
}

void scan::forward_tasks(const Inputs& in, const Outputs& out, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(ops::scan_tasks)(in, out, begin, end);
}

}  // namespace mamba::ops
#endif
