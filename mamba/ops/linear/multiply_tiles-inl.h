// Pieces of amx::many_rows: a block of 32 rows x 32 columns of sums, and what is done while the tile unit works on it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "mamba/ops/linear/finish_bf16-inl.h"
#include "mamba/ops/linear/pack_tiles-inl.h"
#include "mamba/ops/linear/tiles-inl.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::linear_detail {
namespace {

constexpr int64_t kBlockRows = 32;
constexpr int64_t kPanelStep = 2 * kTileElements;  // two tiles of a panel, beside each other

// What is done between the multiplications of a block, since the tile unit is busy meanwhile: the block before goes
// where it belongs, row by row, and the panel after this one is packed.
class Between {
 public:
  explicit Between(const Product& product) : product_(product) {}

  void finish(int64_t row, int64_t rows, int64_t n, int64_t columns, const float* sums) {
    row_ = row;
    rows_ = rows;
    n_ = n;
    columns_ = columns;
    sums_ = sums;
  }
  // Steps [first, first + steps) of columns [n, n + columns), to be done after `turns` turns.
  void pack(int64_t n, int64_t columns, int64_t first, int64_t steps, int64_t turns, uint16_t* to) {
    packed_n_ = n;
    packed_columns_ = columns;
    first_ = first;
    halves_ = 2 * steps;
    done_ = 0;
    turns_ = std::max<int64_t>(1, turns);
    credit_ = 0;
    to_ = to;
  }
  __attribute__((always_inline)) void next(int64_t rows) {
    finish_some(rows);
    if (done_ < halves_ && (credit_ += halves_) >= turns_) {
      credit_ -= turns_;
      pack_half();
    }
  }
  void finish_rest() { finish_some(kBlockRows); }
  void pack_rest() {
    while (done_ < halves_) {
      pack_half();
    }
  }

 private:
  __attribute__((always_inline)) void finish_some(int64_t rows) {
    for (; rows > 0 && rows_ > 0; --rows, --rows_, ++row_, sums_ += kPanelColumns) {
      finish_row(product_, row_, n_, columns_, sums_);
    }
  }
  __attribute__((noinline)) void pack_half() {
    pack_right(product_.right, product_.k, packed_n_, packed_columns_, first_ + done_ / 2, done_ % 2,
               to_ + done_ / 2 * kPanelStep);
    ++done_;
  }

  const Product& product_;
  int64_t row_ = 0, rows_ = 0, n_ = 0, columns_ = 0;
  const float* sums_ = nullptr;
  int64_t packed_n_ = 0, packed_columns_ = 0, first_ = 0, halves_ = 0, done_ = 0, turns_ = 1, credit_ = 0;
  uint16_t* to_ = nullptr;
};

struct Block {
  const uint16_t* left;  // tiles of steps one after another; those of the second 16 rows `left_rows` elements further
  int64_t left_rows;
  const uint16_t* right;  // a panel's steps
  int64_t steps;
  bool add;     // to what `sums` hold
  float* sums;  // kPanelColumns to a row
};

template <typename Tiles, int kRowTiles, int kColumnTiles>
__attribute__((noinline)) void multiply_block(Tiles& tiles, const Block& b, Between& between) {
  constexpr int64_t kSumsRow = kPanelColumns * sizeof(float);
  float* const second = b.sums + 16 * kPanelColumns;
  if (b.add) {
    tiles.template load<0>(b.sums, kSumsRow);
    if constexpr (kColumnTiles == 2) {
      tiles.template load<1>(b.sums + 16, kSumsRow);
    }
    if constexpr (kRowTiles == 2) {
      tiles.template load<2>(second, kSumsRow);
    }
    if constexpr (kRowTiles == 2 && kColumnTiles == 2) {
      tiles.template load<3>(second + 16, kSumsRow);
    }
  } else {
    tiles.template zero<0>();
    tiles.template zero<1>();
    tiles.template zero<2>();
    tiles.template zero<3>();
  }
  const int64_t finished = (kBlockRows + b.steps - 1) / b.steps;
  const uint16_t* left = b.left;
  const uint16_t* right = b.right;
  for (int64_t s = 0; s < b.steps; ++s, left += kTileElements, right += kPanelStep) {
    tiles.template load<6>(right, kTileRowBytes);
    tiles.template load_once<4>(left, kTileRowBytes);
    if constexpr (kColumnTiles == 2) {
      tiles.template load<7>(right + kTileElements, kTileRowBytes);
    }
    if constexpr (kRowTiles == 2) {
      tiles.template load_once<5>(left + b.left_rows, kTileRowBytes);
    }
    tiles.template multiply<0, 4, 6>();
    if constexpr (kColumnTiles == 2) {
      tiles.template multiply<1, 4, 7>();
    }
    if constexpr (kRowTiles == 2) {
      tiles.template multiply<2, 5, 6>();
    }
    if constexpr (kRowTiles == 2 && kColumnTiles == 2) {
      tiles.template multiply<3, 5, 7>();
    }
    between.next(finished);
  }
  between.finish_rest();
  tiles.template store<0>(b.sums, kSumsRow);
  if constexpr (kColumnTiles == 2) {
    tiles.template store<1>(b.sums + 16, kSumsRow);
  }
  if constexpr (kRowTiles == 2) {
    tiles.template store<2>(second, kSumsRow);
  }
  if constexpr (kRowTiles == 2 && kColumnTiles == 2) {
    tiles.template store<3>(second + 16, kSumsRow);
  }
}

template <typename Tiles>
void multiply_block(Tiles& tiles, int64_t rows, int64_t columns, const Block& block, Between& between) {
  if (rows > 16) {
    if (columns > 16) {
      multiply_block<Tiles, 2, 2>(tiles, block, between);
    } else {
      multiply_block<Tiles, 2, 1>(tiles, block, between);
    }
  } else if (columns > 16) {
    multiply_block<Tiles, 1, 2>(tiles, block, between);
  } else {
    multiply_block<Tiles, 1, 1>(tiles, block, between);
  }
}

}  // namespace
}  // namespace mamba::ops::linear_detail
MAMBA_AVX512_BF16_END
