// What forward and backward scan share: one block of channels with its parameters in the layout of the kernels, where
// number n of channel c lies at [n * kBlock + c]. Highway per-target header.

#if defined(MAMBA_OPS_SELECTIVE_SCAN_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_OPS_SELECTIVE_SCAN_BLOCK_INL_H_
#undef MAMBA_OPS_SELECTIVE_SCAN_BLOCK_INL_H_
#else
#define MAMBA_OPS_SELECTIVE_SCAN_BLOCK_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <tuple>

#include "mamba/ops/cpu/floats-inl.h"
#include "mamba/ops/cpu/math-inl.h"
#include "mamba/ops/cpu/transpose-inl.h"
#include "mamba/ops/selective_scan/kernel.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {

static_assert(hn::MaxLanes(FloatTag()) <= scan::kBlock, "a vector lies within one block");

constexpr float kLargestA = 1e30f;

struct ChannelBlock {
  int64_t batch;  // row of the batch
  int64_t index;
  int64_t first;  // channel
  int64_t count;  // channels, the last block's may be fewer than kBlock
  int64_t begin;  // span
  int64_t end;
  float* A;     // (N, kBlock), times log2(e), finite; 0 where there is no channel
  float* D;     // (kBlock)
  float* bias;  // (kBlock), of delta

  static int64_t floats(int64_t states) { return (states + 2) * scan::kBlock; }

  ChannelBlock() = default;

  // `memory` has floats(N) of them.
  ChannelBlock(const scan::Inputs& in, int64_t b, int64_t block, float* memory)
      : batch(b),
        index(block),
        first(block * scan::kBlock),
        count(std::min(scan::kBlock, in.channels - first)),
        A(memory),
        D(A + in.states * scan::kBlock),
        bias(D + scan::kBlock) {
    const FloatTag d;
    std::tie(begin, end) = cpu::span_of(in.spans, b, in.length);
    if (count < scan::kBlock) {
      std::fill_n(memory, floats(in.states), 0.0f);
    }
    transpose(in.A + first * in.states, in.states, count, in.states, A, scan::kBlock);
    for (int64_t i = 0; i < in.states * scan::kBlock; i += static_cast<int64_t>(hn::Lanes(d))) {
      // Held to where its products with any dt that leaves the state finite are finite.
      const FloatVec a = hn::Mul(hn::Load(d, A + i), hn::Set(d, kLog2e));
      hn::Store(clamp(d, a, -kLargestA, kLargestA), d, A + i);
    }
    const auto take = [&](const cpu::Numbers& numbers, float* out) HWY_ATTR {
      if (numbers.data == nullptr) {
        std::fill_n(out, scan::kBlock, 0.0f);
      } else {
        widen(numbers.from(first), count, out);
      }
    };
    take(in.D, D);
    take(in.delta_bias, bias);
  }

  // Lanes of the vector at channel c that are channels.
  size_t lanes_at(int64_t c) const { return static_cast<size_t>(count - c); }

  void load_initial_state(const scan::Inputs& in, float* h) const {
    if (in.initial_state == nullptr || count < scan::kBlock) {
      std::fill_n(h, in.states * scan::kBlock, 0.0f);
    }
    if (in.initial_state != nullptr) {
      const float* rows = in.initial_state + (batch * in.channels + first) * in.states;
      transpose(rows, in.states, count, in.states, h, scan::kBlock);
    }
  }

  // Where the state before position (k + 1) * kKept is kept.
  int64_t kept_offset(const scan::Inputs& in, int64_t k) const {
    return (((batch * scan::num_kept(in.length) + k) * scan::num_blocks(in.channels)) + index) * in.states *
           scan::kBlock;
  }

  bool resets_at(const scan::Inputs& in, int64_t t) const {
    return in.resets != nullptr && in.resets[batch * in.length + t] != 0;
  }
};

// The block that is worked on next, so that its rows can be fetched while there is still something to compute.
struct Next {
  const ChannelBlock* block = nullptr;
  int64_t distance = 0;  // in positions, from the tile that is being worked on

  template <typename T>
  HWY_INLINE void prefetch(std::initializer_list<const cpu::Rows*> arrays, int64_t t) const {
    if (block != nullptr && t + distance < block->end) {
      for (const cpu::Rows* rows : arrays) {
        if (rows->data != nullptr) {
          const T* row = rows->row<T>(block->batch, t + distance) + block->first;
          hwy::Prefetch(row);
          hwy::Prefetch(row + block->count - 1);
        }
      }
    }
  }
};

// Rows [from, to) of a (B, L, columns) array as floats, one after the other.
template <typename T>
HWY_INLINE void widen_rows(const cpu::Rows& rows, int64_t b, int64_t from, int64_t to, int64_t columns, float* out) {
  const FloatTag d;
  for (int64_t t = from; t < to; ++t, out += columns) {
    const T* in = rows.row<T>(b, t);
    if constexpr (std::is_same_v<T, float>) {
      std::memcpy(out, in, static_cast<size_t>(columns) * sizeof(float));
    } else {
      for (int64_t n = 0; n < columns; n += static_cast<int64_t>(hn::Lanes(d))) {
        const size_t left = static_cast<size_t>(columns - n);
        store_some(d, load_some(d, in + n, left), out + n, left);
      }
    }
  }
}

}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_OPS_SELECTIVE_SCAN_BLOCK_INL_H_
