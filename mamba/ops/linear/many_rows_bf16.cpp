// As many_rows.cpp, where both operands are bfloat16 and the processor adds up the products of pairs. An element of the
// packed operands is a pair of neighbours in k, so nothing is widened, and packing bfloat16 by k (gradients) is
// interleaving two rows. Blocks of 8 rows x 3 vectors of sums: their loop does nothing else in 24 multiplications than
// 11 loads, and runs at the speed of the multipliers (235 of 236 GFLOP/s on one core of Zen 4) as long as a tile of the
// right operand stays in the second-level cache.
//
// Each element of the result is one chain of sums in the order of k, whatever the other rows and columns are.

#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/linear/many_rows.h"

#ifdef MAMBA_AVX512_BF16
#include <algorithm>
#include <cstring>

#include "mamba/base/threads.h"
#include "mamba/ops/linear/bf16-inl.h"
#include "mamba/ops/linear/fetch.h"
#include "mamba/ops/linear/finish_bf16-inl.h"
#include "mamba/ops/linear/pack_bf16-inl.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::linear_detail {
namespace {

constexpr int64_t kMaxVectors = 3;
constexpr int64_t kPanel = kMaxVectors * kVector;
constexpr int64_t kMaxDepth = 1536;                 // pairs
constexpr int64_t kTilePairs = kMaxDepth * kPanel;  // 288 KiB
constexpr int64_t kMaxTileColumns = 4 * kPanel;
constexpr int64_t kFetchStep = 16;        // pairs between two steps of a BlockFetch
constexpr int64_t kPiecePairs = 2 << 20;  // packed rows of the left operand at a time: 8 MiB
constexpr int64_t kMaxPieceRows = 1024;
constexpr int64_t kMinPieceRows = 128;

// With one pass over k nothing waits for another, so that pieces may be long.
constexpr int64_t piece_rows(int64_t m, int64_t k) {
  const int64_t most = pairs_of(k) <= kMaxDepth ? m : kMaxPieceRows;
  const int64_t fit = kPiecePairs / std::max<int64_t>(pairs_of(k), 1) / kRows * kRows;
  return std::min({m, most, std::max(kMinPieceRows, fit)});
}

// Sums of a block, kPanel to a row.
using Sums = float[kRows * kPanel];

// sums (+)= left [depth][kRows] times panel [depth][kVectors * kVector].
template <int kVectors>
__attribute__((noinline)) void multiply_block(const uint32_t* left, const uint32_t* panel, int64_t depth, bool add,
                                              BlockFetch& fetch, float* sums) {
  __m512 sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int64_t i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int64_t v = 0; v < kVectors; ++v) {
      sum[i][v] = add ? _mm512_load_ps(sums + i * kPanel + v * kVector) : _mm512_setzero_ps();
    }
  }
  const auto multiply = [&](int64_t from, int64_t to) __attribute__((always_inline)) {
    for (int64_t k = from; k < to; ++k) {
      __m512bh right[kVectors];
#pragma GCC unroll 4
      for (int64_t v = 0; v < kVectors; ++v) {
        right[v] = as_bf16(_mm512_load_si512(panel + (k * kVectors + v) * kVector));
      }
#pragma GCC unroll 8
      for (int64_t i = 0; i < kRows; ++i) {
        const __m512bh x = as_bf16(_mm512_set1_epi32(static_cast<int>(left[k * kRows + i])));
#pragma GCC unroll 4
        for (int64_t v = 0; v < kVectors; ++v) {
          sum[i][v] = _mm512_dpbf16_ps(sum[i][v], x, right[v]);
        }
      }
    }
  };
  const int64_t early = std::max<int64_t>(0, depth - kFetchStep);
  for (int64_t k = 0; k < early; k += kFetchStep) {
    fetch.next();
    multiply(k, std::min(early, k + kFetchStep));
  }
  fetch.last();
  multiply(early, depth);
#pragma GCC unroll 8
  for (int64_t i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int64_t v = 0; v < kVectors; ++v) {
      _mm512_store_ps(sums + i * kPanel + v * kVector, sum[i][v]);
    }
  }
}

void multiply_block(int64_t vectors, const uint32_t* left, const uint32_t* panel, int64_t depth, bool add,
                    BlockFetch& fetch, float* sums) {
  if (vectors == 1) {
    multiply_block<1>(left, panel, depth, add, fetch, sums);
  } else if (vectors == 2) {
    multiply_block<2>(left, panel, depth, add, fetch, sums);
  } else {
    multiply_block<3>(left, panel, depth, add, fetch, sums);
  }
}

// Rows [begin, end) of a packed piece against columns [n, n + columns); those at `next_n` probably come next.
void multiply_tile(const Product& product, const uint32_t* packed, int64_t piece_begin, int64_t begin, int64_t end,
                   int64_t n, int64_t columns, int64_t next_n) {
  alignas(64) uint32_t tile[kTilePairs];
  alignas(64) float partial[kMaxPieceRows * kPanel];
  alignas(64) Sums sums;
  const int64_t pairs = pairs_of(product.k);
  const int64_t panels = (columns + kPanel - 1) / kPanel;
  const int64_t passes = (pairs + kMaxDepth - 1) / kMaxDepth;
  PartFetch part(product, next_n, columns, (end - begin + kRows - 1) / kRows * panels * passes);
  for (int64_t first = 0; first < pairs; first += kMaxDepth) {
    const int64_t depth = std::min(kMaxDepth, pairs - first);
    const bool last = first + depth == pairs;
    const bool one_pass = first == 0 && last;
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t column = n + p * kPanel;
      const int64_t width = std::min(kPanel, columns - p * kPanel);
      uint32_t* const panel = tile + p * depth * kPanel;
      if (product.right.panels != nullptr) {
        product.right.panels->pack(column, width, first, depth, panel);
      } else {
        pack_panel(product.right, column, width, 2 * first, std::min(2 * depth, product.k - 2 * first), panel);
      }
    }
    for (int64_t row = begin; row < end; row += kRows) {
      const uint32_t* const left = packed + (row - piece_begin) * pairs + first * kRows;
      for (int64_t p = 0; p < panels; ++p) {
        const int64_t width = std::min(kPanel, columns - p * kPanel);
        const int64_t rows = std::min(kRows, end - row);
        BlockFetch fetch(ResultLines(product.out, row, last ? rows : 0, n + p * kPanel, width), part,
                         depth / kFetchStep);
        float* const to = one_pass ? sums : partial + (row - begin) * kPanel;
        multiply_block((width + kVector - 1) / kVector, left, tile + p * depth * kPanel, depth, first > 0, fetch, to);
        for (int64_t i = 0; last && i < rows; ++i) {
          finish_row(product, row + i, n + p * kPanel, width, to + i * kPanel);
        }
      }
    }
  }
}

}  // namespace

bool bf16::can_multiply(const Product& product) {
  return product.k > 0 && product.left.rows.type == Float::kBfloat16 && product.right.matrix.type == Float::kBfloat16 &&
         cpu::has_bf16_products();
}

int64_t bf16::many_rows_workspace(int64_t m, int64_t k) {
  return (piece_rows(m, k) + 2 * kRows) * pairs_of(k);
}

void bf16::many_rows(const Product& product, float* workspace) {
  auto* const packed = reinterpret_cast<uint32_t*>(workspace);
  const int64_t piece = piece_rows(product.m, product.k);
  const int64_t depth = std::min(kMaxDepth, pairs_of(product.k));
  // `partial` holds one panel's sums: with several passes over k a tile is one panel wide.
  int64_t tile_columns = kPanel;
  if (pairs_of(product.k) <= kMaxDepth) {
    tile_columns = std::clamp(kTilePairs / depth, kPanel, kMaxTileColumns) / kPanel * kPanel;
  }
  for (int64_t begin = 0; begin < product.m; begin += piece) {
    const int64_t end = std::min(product.m, begin + piece);
    const int64_t blocks = (end - begin + kRows - 1) / kRows;
    parallel_for(blocks, product.left.transposed ? 32 : 4, [&](int64_t from, int64_t to) {
      pack_left(product.left, begin, begin + from * kRows, std::min(end, begin + to * kRows), product.k, packed);
    });
    // At least four tasks a thread, as far as narrower tiles and a split of the rows give them.
    const int64_t wanted = 4 * num_threads();
    const int64_t narrow = (product.n / wanted + kPanel - 1) / kPanel * kPanel;
    const int64_t columns = std::clamp(narrow, std::min<int64_t>(tile_columns, 2 * kPanel), tile_columns);
    const int64_t tiles = (product.n + columns - 1) / columns;
    const int64_t splits = std::clamp<int64_t>(wanted / tiles, 1, (end - begin + 127) / 128);
    const int64_t split_rows = ((end - begin + splits - 1) / splits + kRows - 1) / kRows * kRows;
    parallel_for(tiles * splits, 1, [&](int64_t from, int64_t to) {
      for (int64_t task = from; task < to; ++task) {
        const int64_t n = task / splits * columns;
        const int64_t row = begin + task % splits * split_rows;
        const int64_t row_end = std::min(end, row + split_rows);
        if (row < row_end) {
          // Threads take turns where tasks take equally long.
          const int64_t next_n = (task + num_threads()) / splits * columns;
          multiply_tile(product, packed, begin, row, row_end, n, std::min(columns, product.n - n), next_n);
        }
      }
    });
  }
}

}  // namespace mamba::ops::linear_detail
MAMBA_AVX512_BF16_END

#else

namespace mamba::ops::linear_detail {
bool bf16::can_multiply(const Product&) {
  return false;
}
int64_t bf16::many_rows_workspace(int64_t, int64_t) {
  return 0;
}
void bf16::many_rows(const Product&, float*) {}
}  // namespace mamba::ops::linear_detail
#endif
