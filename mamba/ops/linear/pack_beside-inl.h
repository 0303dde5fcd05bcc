// Pieces of bf16::many_rows: the right operand packed a few instructions at a time, beside blocks that are multiplied.
// What a piece does with memory and with elements that change places finds units that the multiplication leaves idle,
// and a core looks far enough ahead to have both going, as long as a piece is short and needs no more registers than
// sums leave. Alone the same takes four times as long.
//
// A packer is started, then stepped through; finish() does what is left, and what does not come in whole pieces.
#pragma once

#include <algorithm>
#include <cstdint>

#include "mamba/ops/linear/block_bf16-inl.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::linear_detail {
namespace {

constexpr int64_t kStripPairs = 16;  // of a few rows
constexpr int64_t kStripRows = 4;
constexpr int64_t kLineWords = 16;

// to[p * stride + i] = pair p of row i, for 16 pairs of four rows.
__attribute__((always_inline)) inline void pack_strip(const uint16_t* row0, const uint16_t* row1, const uint16_t* row2,
                                                      const uint16_t* row3, uint32_t* to, int64_t stride) {
  const __m512i a = _mm512_loadu_si512(row0), b = _mm512_loadu_si512(row1);
  const __m512i c = _mm512_loadu_si512(row2), d = _mm512_loadu_si512(row3);
  const __m512i ab_low = _mm512_unpacklo_epi32(a, b), ab_high = _mm512_unpackhi_epi32(a, b);
  const __m512i cd_low = _mm512_unpacklo_epi32(c, d), cd_high = _mm512_unpackhi_epi32(c, d);
  // Pairs p, p + 4, p + 8 and p + 12 of the four rows.
  const auto store = [&](__m512i pairs, int64_t p) __attribute__((always_inline)) {
    const auto at = [&](int64_t i) { return reinterpret_cast<__m128i*>(to + (p + 4 * i) * stride); };
    _mm_storeu_si128(at(0), _mm512_castsi512_si128(pairs));
    _mm_storeu_si128(at(1), _mm512_extracti32x4_epi32(pairs, 1));
    _mm_storeu_si128(at(2), _mm512_extracti32x4_epi32(pairs, 2));
    _mm_storeu_si128(at(3), _mm512_extracti32x4_epi32(pairs, 3));
  };
  store(_mm512_unpacklo_epi64(ab_low, cd_low), 0);
  store(_mm512_unpackhi_epi64(ab_low, cd_low), 1);
  store(_mm512_unpacklo_epi64(ab_high, cd_high), 2);
  store(_mm512_unpackhi_epi64(ab_high, cd_high), 3);
}

// Where a walk through nested loops stands.
struct Place {
  int64_t inner = 0, outer = 0, panel = 0;

  __attribute__((always_inline)) inline void advance(int64_t inner_end, int64_t outer_end) {
    if (++inner == inner_end) {
      inner = 0;
      if (++outer == outer_end) {
        outer = 0;
        ++panel;
      }
    }
  }
};

// Columns of a right operand that lies in rows of k, as a tile, all of k. Whole panels in steps of a strip.
class TilePacker {
 public:
  // Nothing.
  TilePacker() = default;
  // Columns [n, n + columns), if there are any.
  TilePacker(const Product& product, int64_t n, int64_t columns, uint32_t* tile) {
    if (columns <= 0) {
      return;
    }
    product_ = &product;
    n_ = n;
    columns_ = columns;
    tile_ = tile;
    depth_ = pairs_of(product.k);
    const bool whole = product.k % (2 * kStripPairs) == 0;
    panels_ = whole ? columns / kPanel : 0;
    strips_ = depth_ / kStripPairs;
    left_ = panels_ * kStripsOfLine * strips_;
    stride_ = product.right.matrix.stride;
    from_ = static_cast<const uint16_t*>(product.right.matrix.data) + n * stride_;
  }

  // Steps that it takes.
  int64_t steps() const { return left_ > 0 ? left_ + lead_ : 0; }
  bool is_open() const { return left_ > 0; }

  __attribute__((always_inline)) inline void step() {
    if (fetched_.panel < panels_) {
      fetch();
      fetched_.advance(kStripsOfLine, strips_);
    }
    if (lead_ > 0) {
      --lead_;
      return;
    }
    pack();
    place_.advance(kStripsOfLine, strips_);
    --left_;
  }

  void finish() {
    if (product_ == nullptr) {
      return;
    }
    while (left_ > 0) {
      step();
    }
    for (int64_t done = panels_ * kPanel; done < columns_; done += kPanel) {
      pack_panel(product_->right, n_ + done, std::min(kPanel, columns_ - done), 0, product_->k, tile_ + done * depth_);
    }
    product_ = nullptr;
  }

 private:
  static constexpr int64_t kStripsOfLine = kPanel / kStripRows;  // of a panel's columns, kStripPairs long

  const uint16_t* source(const Place& at) const {
    return from_ + (at.panel * kPanel + at.inner * kStripRows) * stride_ + at.outer * 2 * kStripPairs;
  }

  uint32_t* destination(const Place& at) const { return tile_ + (at.panel * depth_ + at.outer * kStripPairs) * kPanel; }

  // Lines to read and lines to write: those of a strip of rows are shared by all strips of a panel, each of which asks
  // for some.
  __attribute__((always_inline)) inline void fetch() const {
    const uint16_t* const from = source(fetched_);
    uint32_t* const to = destination(fetched_) + fetched_.inner * 4 * kLineWords;
    MAMBA_CPU_UNROLL(4)
    for (int64_t i = 0; i < 4; ++i) {
      __builtin_prefetch(to + i * kLineWords, 1);
    }
    MAMBA_CPU_UNROLL(4)
    for (int64_t i = 0; i < kStripRows; ++i) {
      __builtin_prefetch(from + i * stride_);
    }
  }

  __attribute__((always_inline)) inline void pack() const {
    const uint16_t* const from = source(place_);
    pack_strip(from, from + stride_, from + 2 * stride_, from + 3 * stride_,
               destination(place_) + place_.inner * kStripRows, kPanel);
  }

  const Product* product_ = nullptr;  // null: nothing to do
  int64_t n_ = 0, columns_ = 0, depth_ = 0, panels_ = 0, strips_ = 0;
  uint32_t* tile_ = nullptr;
  const uint16_t* from_ = nullptr;
  int64_t stride_ = 0;
  int64_t lead_ = 2 * kStripsOfLine;  // steps that only ask for lines
  int64_t left_ = 0;
  Place place_, fetched_;
};

}  // namespace
}  // namespace mamba::ops::linear_detail
MAMBA_AVX512_BF16_END
