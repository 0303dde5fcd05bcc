// As few_rows.cpp, where x and the weights are bfloat16 and the processor adds up the products of pairs. Neither is
// widened: with eight rows the multipliers keep up with memory.

#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/linear/few_rows.h"

#ifdef MAMBA_AVX512_BF16
#include <algorithm>
#include <cstring>

#include "mamba/ops/linear/bf16-inl.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::linear_detail {
namespace {

constexpr int kMaxRows = 8;
constexpr int kMaxRowsInOrder = 2;
constexpr int kColumnsOf[kMaxRows] = {4, 4, 8, 6, 4, 4, 3, 3};  // at most 24 sums, beside them the operands
constexpr int64_t kUnit = 32;                                   // elements to a vector

int64_t row_elements(int64_t k) {
  return 2 * packed_stride((k + 1) / 2);
}

// out[i * out_stride + j] for kRows rows of x and kCols columns. Each is one vector of sums, in the order of k.
//
// Few rows take one column after another, as they lie in memory: the processor then sees one stream and reads ahead by
// itself, further than there is room for fetches that are asked for. More rows take columns side by side, which share
// the loads of x.
template <int kRows, int kCols>
__attribute__((noinline)) void dot_block(const uint16_t* x, int64_t x_stride, const uint16_t* w, int64_t w_stride,
                                         int64_t k, float* out, int64_t out_stride) {
  constexpr int kSums = (kRows * kCols + 3) / 4 * 4;
  __m512 sums[kSums];
  MAMBA_CPU_UNROLL(32)
  for (int i = 0; i < kSums; ++i) {
    sums[i] = _mm512_setzero_ps();
  }
  const int64_t whole = k / kUnit * kUnit;
  const auto add = [&](__m512bh right, int64_t at, int j) {
    MAMBA_CPU_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
      const __m512bh left = as_bf16(_mm512_load_si512(x + i * x_stride + at));
      sums[i * kCols + j] = _mm512_dpbf16_ps(sums[i * kCols + j], left, right);
    }
  };
  if constexpr (kRows <= kMaxRowsInOrder) {
    MAMBA_CPU_UNROLL(4)
    for (int j = 0; j < kCols; ++j) {
      for (int64_t at = 0; at < whole; at += kUnit) {
        add(as_bf16(_mm512_loadu_si512(w + j * w_stride + at)), at, j);
      }
    }
  } else {
    for (int64_t at = 0; at < whole; at += kUnit) {
      __m512bh right[kCols];
      MAMBA_CPU_UNROLL(8)
      for (int j = 0; j < kCols; ++j) {
        const uint16_t* const column = w + j * w_stride + at;
        __builtin_prefetch(column + kCols * w_stride, 0, 2);
        right[j] = as_bf16(_mm512_loadu_si512(column));
      }
      MAMBA_CPU_UNROLL(8)
      for (int i = 0; i < kRows; ++i) {
        const __m512bh left = as_bf16(_mm512_load_si512(x + i * x_stride + at));
        MAMBA_CPU_UNROLL(8)
        for (int j = 0; j < kCols; ++j) {
          sums[i * kCols + j] = _mm512_dpbf16_ps(sums[i * kCols + j], left, right[j]);
        }
      }
    }
  }
  if (whole < k) {
    const __mmask32 rest = (uint32_t{1} << (k - whole)) - 1;
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      add(as_bf16(_mm512_maskz_loadu_epi16(rest, w + j * w_stride + whole)), whole, j);
    }
  }
  float added[kSums];
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kSums; i += 4) {
    _mm_storeu_ps(added + i, sums_of_lanes(sums[i], sums[i + 1], sums[i + 2], sums[i + 3]));
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kCols; ++j) {
      out[i * out_stride + j] = added[i * kCols + j];
    }
  }
}

template <int kRows>
void dot_columns(const uint16_t* x, int64_t x_stride, const uint16_t* w, int64_t w_stride, int64_t k, int64_t columns,
                 float* out, int64_t out_stride) {
  constexpr int kCols = kColumnsOf[kRows - 1];
  int64_t j = 0;
  for (; j + kCols <= columns; j += kCols) {
    dot_block<kRows, kCols>(x, x_stride, w + j * w_stride, w_stride, k, out + j, out_stride);
  }
  for (; j < columns; ++j) {
    dot_block<kRows, 1>(x, x_stride, w + j * w_stride, w_stride, k, out + j, out_stride);
  }
}

}  // namespace

void bf16::pack(const Rows& x, int64_t k, int64_t begin, int64_t end, float* packed) {
  const int64_t stride = row_elements(k);
  const int64_t padded = (k + kUnit - 1) / kUnit * kUnit;
  for (int64_t row = begin; row < end; ++row) {
    uint16_t* const to = reinterpret_cast<uint16_t*>(packed) + row * stride;
    std::memcpy(to, x.rows[static_cast<size_t>(row)], static_cast<size_t>(k) * sizeof(uint16_t));
    std::fill(to + k, to + padded, uint16_t{0});
  }
}

void bf16::columns(const float* packed, int64_t rows, const Matrix& weight, const float* bias, int64_t k, int64_t begin,
                   int64_t end, const OutRows& y) {
  constexpr decltype(&dot_columns<1>) kBlocks[kMaxRows] = {dot_columns<1>, dot_columns<2>, dot_columns<3>,
                                                           dot_columns<4>, dot_columns<5>, dot_columns<6>,
                                                           dot_columns<7>, dot_columns<8>};
  float out[kMaxRows * kMaxFewColumns];
  const int64_t x_stride = row_elements(k);
  const auto* x = reinterpret_cast<const uint16_t*>(packed);
  const auto* w = static_cast<const uint16_t*>(weight.data) + begin * weight.stride;
  int64_t count = 0;
  for (int64_t row = 0; row < rows; row += count) {
    const int64_t blocks = (rows - row + kMaxRows - 1) / kMaxRows;
    count = (rows - row + blocks - 1) / blocks;
    kBlocks[count - 1](x + row * x_stride, x_stride, w, weight.stride, k, end - begin, out, kMaxFewColumns);
    for (int64_t i = 0; i < count; ++i) {
      void* const to = y.rows[static_cast<size_t>(row + i)];
      for (int64_t j = 0; j < end - begin; j += 16) {
        store(_mm512_loadu_ps(out + i * kMaxFewColumns + j), std::min<int64_t>(16, end - begin - j), bias, y.type,
              begin + j, to);
      }
    }
  }
}

}  // namespace mamba::ops::linear_detail
MAMBA_AVX512_BF16_END

#else

namespace mamba::ops::linear_detail {
void bf16::pack(const Rows&, int64_t, int64_t, int64_t, float*) {}
void bf16::columns(const float*, int64_t, const Matrix&, const float*, int64_t, int64_t, int64_t, const OutRows&) {}
}  // namespace mamba::ops::linear_detail
#endif
