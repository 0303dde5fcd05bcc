// Pieces of products of many rows of bfloat16: how they are cut into tasks, and what a task is.
#pragma once

#include <algorithm>
#include <cstdint>

#include "mamba/base/threads.h"
#include "mamba/ops/linear/block_bf16-inl.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::linear_detail {
namespace {

constexpr int64_t kMaxPieceRows = 1024;  // of a left operand that takes several passes over k

// A left operand of m rows, packed.
inline int64_t left_pairs(int64_t m, int64_t k) {
  return (m + kRows - 1) / kRows * kRows * pairs_of(k);
}

// Columns that the thread with most of them has where tiles are dealt out in turns.
inline int64_t largest_share(int64_t n, int64_t columns, int64_t threads) {
  const int64_t tiles = (n + columns - 1) / columns;
  const int64_t all = (tiles + threads - 1) / threads * columns;
  return tiles % threads == 1 % threads ? all - (tiles * columns - n) : all;
}

// Of widths from `most` down to `least`, both whole panels, the one that keeps all threads busy; the widest of such.
inline int64_t balanced_columns(int64_t n, int64_t least, int64_t most) {
  int64_t best = most;
  for (int64_t columns = most - kPanel; columns >= least; columns -= kPanel) {
    if (largest_share(n, columns, num_threads()) < largest_share(n, best, num_threads())) {
      best = columns;
    }
  }
  return best;
}

// With several passes over k a tile is one panel wide, since one panel's sums are kept between them.
inline int64_t tile_columns_for(int64_t k) {
  const int64_t pairs = pairs_of(k);
  return pairs > kMaxDepth ? kPanel : std::clamp(kTilePairs / pairs, kPanel, kMaxTileColumns) / kPanel * kPanel;
}

// Columns that are probably packed next.
struct NextTile {
  const Product* product = nullptr;
  int64_t n = 0;
};

// Rows [begin, end) of a packed piece against columns [n, n + columns).
inline void multiply_tile(const Product& product, const uint32_t* packed, int64_t piece_begin, int64_t begin,
                          int64_t end, int64_t n, int64_t columns, const NextTile& next) {
  alignas(64) uint32_t tile[kTilePairs];
  alignas(64) float partial[kMaxPieceRows * kPanel];
  const int64_t pairs = pairs_of(product.k);
  const int64_t panels = (columns + kPanel - 1) / kPanel;
  const int64_t passes = (pairs + kMaxDepth - 1) / kMaxDepth;
  const int64_t blocks = (end - begin + kRows - 1) / kRows * panels;
  FetchBeside beside(product, *next.product, next.n, columns, passes, blocks);
  for (int64_t first = 0; first < pairs; first += kMaxDepth) {
    const int64_t depth = std::min(kMaxDepth, pairs - first);
    pack_tile(product, n, columns, first, depth, tile);
    multiply_packed(product, packed, piece_begin, begin, end, n, columns, first, depth, tile, partial, beside);
  }
}

// A product of `rows` rows as tasks, each a tile of columns and a split of the rows: at least four tasks a thread, as
// far as narrower tiles and more splits give them.
struct Cut {
  int64_t columns, tiles, splits, split_rows;

  Cut(const Product& product, int64_t rows) {
    const int64_t wanted = 4 * num_threads();
    const int64_t most = tile_columns_for(product.k);
    const int64_t narrow = (product.n / wanted + kPanel - 1) / kPanel * kPanel;
    const int64_t least = std::min(most, 2 * kPanel);
    columns = balanced_columns(product.n, least, std::clamp(narrow, least, most));
    tiles = (product.n + columns - 1) / columns;
    splits = std::clamp<int64_t>(wanted / tiles, 1, (rows + 127) / 128);
    split_rows = ((rows + splits - 1) / splits + kRows - 1) / kRows * kRows;
  }

  int64_t tasks() const { return tiles * splits; }
  int64_t column_of(int64_t task) const { return task / splits * columns; }
};

// Of rows [begin, end), which `packed` begins with.
inline void multiply_task(const Product& product, const uint32_t* packed, int64_t begin, int64_t end, const Cut& cut,
                          int64_t task, const NextTile& next) {
  const int64_t n = cut.column_of(task);
  const int64_t row = begin + task % cut.splits * cut.split_rows;
  const int64_t row_end = std::min(end, row + cut.split_rows);
  if (row < row_end) {
    multiply_tile(product, packed, begin, row, row_end, n, std::min(cut.columns, product.n - n), next);
  }
}

}  // namespace
}  // namespace mamba::ops::linear_detail
MAMBA_AVX512_BF16_END
