// Pieces of kernels that multiply pairs of bfloat16 (avx512_bf16.h).
#pragma once

#include <cstdint>

#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/linear/products.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops {
namespace {

inline __m512bh as_bf16(__m512i bits) {
  return (__m512bh)bits;  // no cast of its own in clang 14
}

// Sixteen floats of any of the dtypes.
inline __m512 load_sixteen(linear_detail::Float type, const void* p) {
  if (type == linear_detail::Float::kFloat32) {
    return _mm512_loadu_ps(p);
  }
  const __m256i halves = _mm256_loadu_si256(static_cast<const __m256i*>(p));
  return type == linear_detail::Float::kFloat16
             ? _mm512_cvtph_ps(halves)
             : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// The sum of each vector's lanes, in an order that is the same for all four.
inline __m128 sums_of_lanes(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 four = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(four), _mm512_extractf32x8_ps(four, 1));
  return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

// The first `count` lanes (+ bias[first ...]) to elements first ... of a row, rounded to nearest, ties to even. `bias`
// may be null.
inline void store(__m512 v, int64_t count, const float* bias, linear_detail::Float type, int64_t first, void* row) {
  const auto mask = static_cast<__mmask16>((uint32_t{1} << count) - 1);
  if (bias != nullptr) {
    v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, bias + first));
  }
  if (type == linear_detail::Float::kFloat32) {
    _mm512_mask_storeu_ps(static_cast<float*>(row) + first, mask, v);
    return;
  }
  if (type == linear_detail::Float::kFloat16) {
    const __m256i halves = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_mask_storeu_epi16(static_cast<uint16_t*>(row) + first, mask, halves);
    return;
  }
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7FC00000));
  const __m256i halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
  _mm256_mask_storeu_epi16(static_cast<uint16_t*>(row) + first, mask, halves);
}

}  // namespace
}  // namespace mamba::ops
MAMBA_AVX512_BF16_END
