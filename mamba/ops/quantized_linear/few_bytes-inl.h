// Inside quantized_linear: rows of bfloat16 as integers of two bytes, for products with codes that are bytes.
//
// Each group of k has a power of two as its unit: x = unit n, and n = 256 high + low with signed bytes. The largest |n|
// of a group lies in [2^14, 2^15), or next to 2^14 if all bits of its bfloat16 are ones. So bfloat16, of 8 bits, is
// held exactly from the largest down to a 64th of it, and mostly further; what is smaller is rounded to whole units,
// and so off by at most 2^-15 of the largest, give or take a bit of that. Units below 2^-126 are not used.
//
// A group with an infinity or a NaN has NaN for a unit.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "mamba/ops/linear/bf16-inl.h"
#include "mamba/ops/quantized_linear/kernel.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::quantized_detail {
namespace {

constexpr int64_t kColumns = Packed::kColumns;

constexpr float middle_of(int64_t bits) {
  return bits == 4 ? 8.0f : 128.0f;
}

inline __m512i four_for_all(const uint8_t* four) {
  uint32_t word = 0;
  std::memcpy(&word, four, sizeof(word));
  return _mm512_set1_epi32(static_cast<int>(word));
}

// Scales of a group of 16 columns, and what a row's sum of integers is multiplied with.
struct GroupScales {
  __m512 scale;
  __m512 bias;

  GroupScales(const Packed& weight, const uint8_t* at)
      : scale(load_sixteen(weight.type, at)),
        bias(_mm512_fmadd_ps(scale, _mm512_set1_ps(middle_of(weight.bits)),
                             load_sixteen(weight.type, at + weight.scale_bytes()))) {}
};

// Rows of x, each: the high bytes of all k, the low bytes, and a Group for each group.
struct FewBytes {
  struct Group {
    int32_t start;  // what the sum of codes times n begins with: -middle (sum of n)
    float sum;      // of n
    float unit;
  };

  const uint8_t* bytes;
  int64_t k;
  int64_t groups;
  int64_t row_bytes;

  // `x` is what few_rows_workspace() has room for.
  FewBytes(const Packed& weight, const float* x)
      : bytes(reinterpret_cast<const uint8_t*>(x)), k(weight.k), groups(weight.groups()) {
    row_bytes = 4 * linear_detail::packed_stride((2 * k + groups * int64_t{sizeof(Group)} + 3) / 4);
  }

  FewBytes from_row(int64_t row) const {
    FewBytes rest = *this;
    rest.bytes += row * row_bytes;
    return rest;
  }

  const uint8_t* group(int64_t row, int64_t g) const {
    return bytes + row * row_bytes + 2 * k + g * int64_t{sizeof(Group)};
  }

  __m512i start(int64_t row, int64_t g) const { return four_for_all(group(row, g)); }

  // `sum` and the products of a group: `low`, which began with start(), and `high` are sums of codes times bytes.
  __m512 add_group(int64_t row, int64_t g, __m512i high, __m512i low, const GroupScales& scales, __m512 sum) const {
    const uint8_t* const of = group(row, g);
    const __m512 products = _mm512_cvtepi32_ps(_mm512_add_epi32(low, _mm512_slli_epi32(high, 8)));
    const __m512 n_sum = _mm512_castsi512_ps(four_for_all(of + offsetof(Group, sum)));
    const __m512 unit = _mm512_castsi512_ps(four_for_all(of + offsetof(Group, unit)));
    return _mm512_fmadd_ps(_mm512_fmadd_ps(products, scales.scale, _mm512_mul_ps(scales.bias, n_sum)), unit, sum);
  }
};

// Columns [begin, begin + count) of a block of 16, those of row `row` of the result.
inline void store_columns(__m512 block, int64_t begin, int64_t count, const float* bias, const OutRows& y,
                          int64_t row) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i wanted = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(begin % kColumns)));
  store(_mm512_permutexvar_ps(wanted, block), count, bias, y.type, begin, y.rows[static_cast<size_t>(row)]);
}

// A group of x, `size` elements, to its two kinds of bytes. Of codes of 4 bits a word has the even ones in one vector
// of bytes and the odd ones in the next, so that is the order of x.
inline FewBytes::Group cut_group(const uint16_t* from, int64_t size, int64_t bits, uint8_t* high, uint8_t* low) {
  constexpr int kInfinity = 0x7F80;
  constexpr int kLeastExponent = 15;
  __m256i most = _mm256_setzero_si256();
  for (int64_t i = 0; i < size; i += 16) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    most = _mm256_max_epu16(most, _mm256_and_si256(x, _mm256_set1_epi16(0x7FFF)));
  }
  const __m128i eight = _mm_max_epu16(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
  const int largest = 0xFFFF - _mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(eight, _mm_set1_epi16(-1))), 0);
  const bool is_finite = largest < kInfinity;
  // Rounded up where all bits are ones: n must not reach 2^15 - 128.
  const int exponent = std::max((largest + 1) >> 7, kLeastExponent);
  const __m512 per_unit = _mm512_set1_ps(std::bit_cast<float>((268 - exponent) << 23));
  const __mmask16 all = is_finite ? 0xFFFF : 0;
  const __m128i order = bits == 4 ? _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15)
                                  : _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __m512i sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < size; i += 16) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    const __m512 wide = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
    const __m512i n = _mm512_maskz_cvtps_epi32(all, _mm512_mul_ps(wide, per_unit));
    const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(128)), 8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(low + i), _mm_shuffle_epi8(_mm512_cvtepi32_epi8(n), order));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(high + i), _mm_shuffle_epi8(_mm512_cvtepi32_epi8(upper), order));
    sum = _mm512_add_epi32(sum, n);
  }
  const int32_t n_sum = _mm512_reduce_add_epi32(sum);
  const int unit = is_finite ? (exponent - 14) << 23 : 0x7FC00000;
  return {.start = -static_cast<int32_t>(middle_of(bits)) * n_sum,
          .sum = static_cast<float>(n_sum),
          .unit = std::bit_cast<float>(unit)};
}

}  // namespace
}  // namespace mamba::ops::quantized_detail
MAMBA_AVX512_BF16_END
