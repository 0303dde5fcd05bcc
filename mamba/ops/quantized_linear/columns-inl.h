// Inside quantized_linear: what lies row by row as vectors whose lanes are 16 rows of W, the columns of the result.
#pragma once

#include <algorithm>
#include <cstdint>

#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/quantized_linear/kernel.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::quantized_detail {
namespace {

constexpr int kColumns = 16;

// Rows and columns of 16 x 16 words swap places.
inline void turn_over(__m512i (&v)[16]) {
  __m512i a[16];
  __m512i b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    const __m512i low01 = _mm512_shuffle_i32x4(b[q], b[4 + q], 0x44);
    const __m512i high01 = _mm512_shuffle_i32x4(b[q], b[4 + q], 0xEE);
    const __m512i low23 = _mm512_shuffle_i32x4(b[8 + q], b[12 + q], 0x44);
    const __m512i high23 = _mm512_shuffle_i32x4(b[8 + q], b[12 + q], 0xEE);
    v[q] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    v[4 + q] = _mm512_shuffle_i32x4(low01, low23, 0xDD);
    v[8 + q] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    v[12 + q] = _mm512_shuffle_i32x4(high01, high23, 0xDD);
  }
}

// Rows j of `count` <= 16 numbers of 16 bits, those of columns[j], as words of two: word i of all rows to words[i].
inline void turn_over_pairs(const uint8_t* const (&columns)[kColumns], int64_t count, __m512i (&words)[16]) {
  const auto mask = static_cast<__mmask16>((uint32_t{1} << count) - 1);
  __m512i v[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const int row = i / 4 * 8 + i % 4;
    const __m256i low = _mm256_maskz_loadu_epi16(mask, columns[row]);
    v[i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), _mm256_maskz_loadu_epi16(mask, columns[row + 4]), 1);
  }
#pragma GCC unroll 2
  for (int half = 0; half < 8; half += 4) {
    const __m512i a = _mm512_unpacklo_epi32(v[half], v[half + 1]);
    const __m512i b = _mm512_unpackhi_epi32(v[half], v[half + 1]);
    const __m512i c = _mm512_unpacklo_epi32(v[half + 2], v[half + 3]);
    const __m512i d = _mm512_unpackhi_epi32(v[half + 2], v[half + 3]);
    v[half] = _mm512_unpacklo_epi64(a, c);
    v[half + 1] = _mm512_unpackhi_epi64(a, c);
    v[half + 2] = _mm512_unpacklo_epi64(b, d);
    v[half + 3] = _mm512_unpackhi_epi64(b, d);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    words[i] = _mm512_shuffle_i32x4(v[i], v[4 + i], 0x88);
    words[4 + i] = _mm512_shuffle_i32x4(v[i], v[4 + i], 0xDD);
  }
}

// Scales and biases of the same groups of 16 columns.
struct Scales {
  const uint8_t* scales;  // of the first column
  const uint8_t* biases;
  int64_t column_bytes;
  const int64_t* columns;  // relative to the first
  int64_t count;           // of groups
};

// As floats, the columns' beside each other, as add_products() takes them.
template <Float kType, typename Format>
__attribute__((noinline)) void widen_scales(const Scales& in, float* scales, float* biases) {
  constexpr int64_t kSize = linear_detail::size_of(kType);
  constexpr int64_t kStep = 16;
  const __m512 middle = _mm512_set1_ps(Format::kMiddle);
  const __m512 unit = _mm512_set1_ps(1.0f / Format::kUnit);
  for (int64_t at = 0; at < in.count; at += kStep) {
    const int64_t left = std::min(kStep, in.count - at);
    __m512i words[2][16];
    for (int i = 0; i < 2; ++i) {
      const uint8_t* const numbers = (i == 0 ? in.scales : in.biases) + at * kSize;
      const uint8_t* columns[kColumns];
#pragma GCC unroll 16
      for (int j = 0; j < kColumns; ++j) {
        columns[j] = numbers + in.columns[j] * in.column_bytes;
      }
      if constexpr (kType == Float::kFloat32) {
        const auto mask = static_cast<__mmask16>((uint32_t{1} << left) - 1);
#pragma GCC unroll 16
        for (int j = 0; j < kColumns; ++j) {
          words[i][j] = _mm512_maskz_loadu_epi32(mask, columns[j]);
        }
        turn_over(words[i]);
      } else {
        turn_over_pairs(columns, left, words[i]);
      }
    }
    const auto number = [&](int i, int64_t g) {
      if constexpr (kType == Float::kFloat32) {
        return _mm512_castsi512_ps(words[i][g]);
      } else if constexpr (kType == Float::kBfloat16) {
        const __m512i pair = words[i][g / 2];
        return _mm512_castsi512_ps(g % 2 == 0
                                       ? _mm512_slli_epi32(pair, 16)
                                       : _mm512_and_si512(pair, _mm512_set1_epi32(static_cast<int>(0xFFFF0000))));
      } else {
        const __m512i pair = words[i][g / 2];
        return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(g % 2 == 0 ? pair : _mm512_srli_epi32(pair, 16)));
      }
    };
#pragma GCC unroll 16
    for (int64_t g = 0; g < kStep; ++g) {
      if (g < left) {
        const __m512 scale = number(0, g);
        _mm512_store_ps(scales + (at + g) * kColumns, _mm512_mul_ps(scale, unit));
        _mm512_store_ps(biases + (at + g) * kColumns, _mm512_fmadd_ps(scale, middle, number(1, g)));
      }
    }
  }
}

}  // namespace
}  // namespace mamba::ops::quantized_detail
MAMBA_AVX512_BF16_END
