// Pieces of bf16::many_rows: blocks of the result.
#pragma once

#include <algorithm>
#include <cstdint>

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
constexpr int64_t kFetchStep = 16;  // pairs between two steps of what is done beside a block

// Lines of memory are asked for while so many blocks are multiplied in so many passes over k: those of results, columns
// [n, n + columns) of the right operand of the product that comes next, and what waits.
class FetchBeside {
 public:
  // Only those of results.
  explicit FetchBeside(const Product& product) : part_(product, product.n, 0, 1) {}
  FetchBeside(const Product& product, const Product& next, int64_t n, int64_t columns, int64_t passes, int64_t blocks)
      : part_(next, n, columns, blocks * passes),
        slices_(blocks * std::max<int64_t>(0, pairs_of(product.k) / kFetchStep - 1)) {}

  BlockFetch block(const OutRows& out, int64_t row, int64_t rows, int64_t n, int64_t columns, int64_t depth) {
    return BlockFetch(out, row, rows, n, columns, part_, slices_, depth / kFetchStep);
  }
  void end_block() { slices_.run_ready(); }

 private:
  PartFetch part_;
  SlicesBeside slices_;
};

// Sums of a block, kPanel to a row.
using Sums = float[kRows * kPanel];

// Where all sums of a block go at once, as they are or rounded to bfloat16: column `first` on of kRows rows.
struct Direct {
  void* const* rows = nullptr;
  int64_t first = 0;
  bool narrow = false;
};

// sums (+)= left [depth][kRows] times panel [depth][kVectors * kVector]. They go to `direct` if there is one.
template <int kVectors, typename Steps>
__attribute__((noinline)) void multiply_block(const uint32_t* left, const uint32_t* panel, int64_t depth, bool add,
                                              Steps& steps, float* sums, const Direct& direct) {
  __m512 sum[kRows][kVectors];
  MAMBA_CPU_UNROLL(8)
  for (int64_t i = 0; i < kRows; ++i) {
    MAMBA_CPU_UNROLL(4)
    for (int64_t v = 0; v < kVectors; ++v) {
      sum[i][v] = add ? _mm512_load_ps(sums + i * kPanel + v * kVector) : _mm512_setzero_ps();
    }
  }
  const auto multiply = [&](int64_t from, int64_t to) __attribute__((always_inline)) {
    for (int64_t k = from; k < to; ++k) {
      __m512bh right[kVectors];
      MAMBA_CPU_UNROLL(4)
      for (int64_t v = 0; v < kVectors; ++v) {
        right[v] = as_bf16(_mm512_load_si512(panel + (k * kVectors + v) * kVector));
      }
      MAMBA_CPU_UNROLL(8)
      for (int64_t i = 0; i < kRows; ++i) {
        const __m512bh x = as_bf16(_mm512_set1_epi32(static_cast<int>(left[k * kRows + i])));
        MAMBA_CPU_UNROLL(4)
        for (int64_t v = 0; v < kVectors; ++v) {
          sum[i][v] = _mm512_dpbf16_ps(sum[i][v], x, right[v]);
        }
      }
    }
  };
  const int64_t early = std::max<int64_t>(0, depth - kFetchStep);
  for (int64_t k = 0; k < early; k += kFetchStep) {
    steps.next();
    multiply(k, std::min(early, k + kFetchStep));
  }
  steps.last();
  multiply(early, depth);
  if (direct.rows == nullptr) {
    MAMBA_CPU_UNROLL(8)
    for (int64_t i = 0; i < kRows; ++i) {
      MAMBA_CPU_UNROLL(4)
      for (int64_t v = 0; v < kVectors; ++v) {
        _mm512_store_ps(sums + i * kPanel + v * kVector, sum[i][v]);
      }
    }
  } else if (direct.narrow) {
    MAMBA_CPU_UNROLL(8)
    for (int64_t i = 0; i < kRows; ++i) {
      auto* const to = static_cast<uint16_t*>(direct.rows[i]) + direct.first;
      MAMBA_CPU_UNROLL(4)
      for (int64_t v = 0; v < kVectors; ++v) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + v * kVector), (__m256i)_mm512_cvtneps_pbh(sum[i][v]));
      }
    }
  } else {
    MAMBA_CPU_UNROLL(8)
    for (int64_t i = 0; i < kRows; ++i) {
      auto* const to = static_cast<float*>(direct.rows[i]) + direct.first;
      MAMBA_CPU_UNROLL(4)
      for (int64_t v = 0; v < kVectors; ++v) {
        _mm512_storeu_ps(to + v * kVector, sum[i][v]);
      }
    }
  }
}

template <typename Steps>
void multiply_block(int64_t vectors, const uint32_t* left, const uint32_t* panel, int64_t depth, bool add, Steps& steps,
                    float* sums, const Direct& direct) {
  if (vectors == 1) {
    multiply_block<1>(left, panel, depth, add, steps, sums, direct);
  } else if (vectors == 2) {
    multiply_block<2>(left, panel, depth, add, steps, sums, direct);
  } else {
    multiply_block<3>(left, panel, depth, add, steps, sums, direct);
  }
}

// Columns [n, n + columns) of the right operand, pairs [first, first + depth), panel after panel.
void pack_tile(const Product& product, int64_t n, int64_t columns, int64_t first, int64_t depth, uint32_t* tile) {
  for (int64_t done = 0; done < columns; done += kPanel) {
    const int64_t width = std::min(kPanel, columns - done);
    uint32_t* const panel = tile + done * depth;
    if (product.right.panels != nullptr) {
      product.right.panels->pack(n + done, width, first, depth, panel);
    } else {
      pack_panel(product.right, n + done, width, 2 * first, std::min(2 * depth, product.k - 2 * first), panel);
    }
  }
}

// Rows [begin, end) of a packed piece against those columns; between passes over k sums wait in `partial`. What is done
// beside a block is asked of `beside`.
template <typename Beside>
void multiply_packed(const Product& product, const uint32_t* packed, int64_t piece_begin, int64_t begin, int64_t end,
                     int64_t n, int64_t columns, int64_t first, int64_t depth, const uint32_t* tile, float* partial,
                     Beside& beside) {
  alignas(64) Sums sums;
  const int64_t pairs = pairs_of(product.k);
  const bool last = first + depth == pairs;
  const bool one_pass = first == 0 && last;
  const bool plain = !product.add && product.bias == nullptr && product.out.type != Float::kFloat16;
  for (int64_t row = begin; row < end; row += kRows) {
    const uint32_t* const left = packed + (row - piece_begin) * pairs + first * kRows;
    const int64_t rows = std::min(kRows, end - row);
    for (int64_t done = 0; done < columns; done += kPanel) {
      const int64_t width = std::min(kPanel, columns - done);
      auto steps = beside.block(product.out, row, last ? rows : 0, n + done, width, depth);
      float* const to = one_pass ? sums : partial + (row - begin) * kPanel;
      Direct direct;
      if (plain && last && rows == kRows && width % kVector == 0) {
        direct = {product.out.rows.data() + row, n + done, product.out.type == Float::kBfloat16};
      }
      multiply_block((width + kVector - 1) / kVector, left, tile + done * depth, depth, first > 0, steps, to, direct);
      for (int64_t i = 0; last && direct.rows == nullptr && i < rows; ++i) {
        finish_row(product, row + i, n + done, width, to + i * kPanel);
      }
      beside.end_block();
    }
  }
}

}  // namespace
}  // namespace mamba::ops::linear_detail
MAMBA_AVX512_BF16_END
