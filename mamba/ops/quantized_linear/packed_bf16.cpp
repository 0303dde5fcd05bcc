// Packed weights times a few rows of bfloat16, where the processor adds up products of bytes: codes are bytes, or
// become two bytes by a mask, and rows of x are cut into integers of two bytes (few_bytes-inl.h). So nothing is
// converted, and a group's sum is exact:
//
//   sum over k of (scale code + bias) x = unit (scale (sum of (code - middle) n) + (bias + scale middle) (sum of n))
//
// where x = unit n. The middle of the codes is taken off so that the two terms do not cancel where weights are about 0.
//
// A lane is a column of the result: a vector holds 32 bits of codes of each of 16 columns, and x comes as four bytes
// for all lanes. So nothing is added up across lanes, and scales are vectors.

#include "mamba/ops/cpu/amx.h"
#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/quantized_linear/kernel.h"

#ifdef MAMBA_AVX512_BF16
#include <algorithm>

#include "mamba/ops/quantized_linear/few_bytes-inl.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::quantized_detail {
namespace {

// Bytes ahead at which codes are asked for. With three rows or more a processor's own fetching, which follows reads,
// leaves memory time; with fewer it keeps up on Zen 4, which asking for codes holds up, and does not on those with AMX.
constexpr int64_t kFetchManyAhead = 2048;
constexpr int64_t kFetchFewAhead = 4096;

// total[i]: the products of row i and a block's columns.
template <int kRows, int kBits, bool kFetchFew>
__attribute__((noinline)) void multiply_block(const Packed& weight, const uint8_t* block, const FewBytes& x,
                                              __m512* total) {
  constexpr int kVectors = 8 / kBits;  // of codes in one of words
  // Sums of a row and part, since an addition waits for the one before, and vectors of codes at once.
  constexpr int kSums = kRows == 1 ? 4 : kRows == 2 ? 2 : 1;
  constexpr int kApart = std::max(kVectors, kSums);
  constexpr int kWords = kApart / kVectors;
  constexpr int64_t kAhead = kRows >= 3 ? kFetchManyAhead : kFetchFew ? kFetchFewAhead : 0;
  const __m512i mask = _mm512_set1_epi8(15);
  __m512 sums[kRows];
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    sums[i] = _mm512_setzero_ps();
  }
  const uint8_t* bytes = x.bytes;
  const int64_t code_bytes = weight.code_bytes();
  const uint8_t* at = block;
  for (int64_t g = 0; g < x.groups; ++g) {
    __m512i high[kRows][kSums];
    __m512i low[kRows][kSums];
    MAMBA_CPU_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
      MAMBA_CPU_UNROLL(4)
      for (int v = 0; v < kSums; ++v) {
        high[i][v] = _mm512_setzero_si512();
        low[i][v] = v == 0 ? x.start(i, g) : _mm512_setzero_si512();
      }
    }
    for (const uint8_t* const codes_end = at + code_bytes; at < codes_end; at += 64 * kWords) {
      __m512i codes[kApart];
      MAMBA_CPU_UNROLL(4)
      for (int w = 0; w < kWords; ++w) {
        const __m512i words = _mm512_loadu_si512(at + 64 * w);
        if constexpr (kAhead > 0) {
          _mm_prefetch(reinterpret_cast<const char*>(at + 64 * w + kAhead), _MM_HINT_T0);
        }
        if constexpr (kBits == 8) {
          codes[w] = words;
        } else {
          codes[2 * w] = _mm512_and_si512(words, mask);
          codes[2 * w + 1] = _mm512_and_si512(_mm512_srli_epi32(words, 4), mask);
        }
      }
      MAMBA_CPU_UNROLL(4)
      for (int v = 0; v < kApart; ++v) {
        MAMBA_CPU_UNROLL(8)
        for (int i = 0; i < kRows; ++i) {
          const uint8_t* const four = bytes + i * x.row_bytes + 4 * v;
          high[i][v % kSums] = _mm512_dpbusd_epi32(high[i][v % kSums], codes[v], four_for_all(four));
          low[i][v % kSums] = _mm512_dpbusd_epi32(low[i][v % kSums], codes[v], four_for_all(four + x.k));
        }
      }
      bytes += 4 * kApart;
    }
    const GroupScales scales(weight, at);
    at += 2 * weight.scale_bytes();
    MAMBA_CPU_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
      MAMBA_CPU_UNROLL(4)
      for (int v = 1; v < kSums; ++v) {
        high[i][0] = _mm512_add_epi32(high[i][0], high[i][v]);
        low[i][0] = _mm512_add_epi32(low[i][0], low[i][v]);
      }
      sums[i] = x.add_group(i, g, high[i][0], low[i][0], scales, sums[i]);
    }
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    total[i] = sums[i];
  }
}

template <int kBits>
void columns_of(const Packed& weight, int64_t rows, const FewBytes& x, const float* bias, int64_t begin, int64_t end,
                const OutRows& y) {
  constexpr int kMaxRows = 8;
  constexpr decltype(&multiply_block<1, kBits, false>) kOf[kMaxRows] = {
      multiply_block<1, kBits, false>, multiply_block<2, kBits, false>, multiply_block<3, kBits, false>,
      multiply_block<4, kBits, false>, multiply_block<5, kBits, false>, multiply_block<6, kBits, false>,
      multiply_block<7, kBits, false>, multiply_block<8, kBits, false>};
  constexpr decltype(&multiply_block<1, kBits, true>) kFetching[] = {multiply_block<1, kBits, true>,
                                                                     multiply_block<2, kBits, true>};
  const bool fetches = cpu::has_tiles();
  for (int64_t column = begin; column < end;) {
    const int64_t count = std::min(kColumns - column % kColumns, end - column);
    int64_t some = 0;
    for (int64_t row = 0; row < rows; row += some) {
      some = std::min<int64_t>(kMaxRows, rows - row);
      __m512 total[kMaxRows];
      const auto multiply = fetches && some <= 2 ? kFetching[some - 1] : kOf[some - 1];
      multiply(weight, weight.block(column / kColumns), x.from_row(row), total);
      for (int64_t i = 0; i < some; ++i) {
        store_columns(total[i], column, count, bias, y, row + i);
      }
    }
    column += count;
  }
}

}  // namespace

void bf16::pack_row(const void* x, const Packed& weight, int64_t first_group, int64_t end_group, int64_t row,
                    float* packed) {
  const int64_t size = weight.group_size;
  const FewBytes to(weight, packed);
  auto* const high = reinterpret_cast<uint8_t*>(packed) + row * to.row_bytes;
  for (int64_t g = first_group; g < end_group; ++g) {
    const int64_t at = g * size;
    const FewBytes::Group cut =
        cut_group(static_cast<const uint16_t*>(x) + at, size, weight.bits, high + at, high + weight.k + at);
    std::memcpy(high + 2 * weight.k + g * int64_t{sizeof(cut)}, &cut, sizeof(cut));
  }
}

void bf16::columns(const Packed& weight, int64_t rows, const float* packed, const float* bias, int64_t begin,
                   int64_t end, const OutRows& y) {
  if (amx::can_multiply(rows)) {
    return amx::columns(weight, rows, packed, bias, begin, end, y);
  }
  const FewBytes x(weight, packed);
  if (weight.bits == 4) {
    columns_of<4>(weight, rows, x, bias, begin, end, y);
  } else {
    columns_of<8>(weight, rows, x, bias, begin, end, y);
  }
}

}  // namespace mamba::ops::quantized_detail
MAMBA_AVX512_BF16_END

#else

namespace mamba::ops::quantized_detail {
void bf16::pack_row(const void*, const Packed&, int64_t, int64_t, int64_t, float*) {}
void bf16::columns(const Packed&, int64_t, const float*, const float*, int64_t, int64_t, const OutRows&) {}
}  // namespace mamba::ops::quantized_detail
#endif
