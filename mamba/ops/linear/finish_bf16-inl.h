// Pieces of products of many rows of bfloat16: what becomes of sums.
#pragma once

#include <algorithm>
#include <cstdint>

#include "mamba/ops/linear/bf16-inl.h"
#include "mamba/ops/linear/many_rows.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::linear_detail {
namespace {

// The first `count` of a row's sums to columns n ... of row i of the results.
inline void finish_row(const Product& product, int64_t i, int64_t n, int64_t count, const float* sums) {
  constexpr int64_t kLanes = 16;
  const auto row = static_cast<size_t>(i);
  const bool is_plain = !product.add && product.bias == nullptr && product.out.type == Float::kBfloat16;
  const float* added = nullptr;
  if (product.add) {
    added = static_cast<const float*>(product.addend.rows.empty() ? product.out.rows[row] : product.addend.rows[row]);
  }
  for (int64_t j = 0; j < count; j += kLanes) {
    const int64_t lanes = std::min(kLanes, count - j);
    __m512 v = _mm512_load_ps(sums + j);
    if (is_plain && lanes == kLanes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(static_cast<uint16_t*>(product.out.rows[row]) + n + j),
                          (__m256i)_mm512_cvtneps_pbh(v));
      continue;
    }
    if (added != nullptr) {
      const auto mask = static_cast<__mmask16>((uint32_t{1} << lanes) - 1);
      v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, added + n + j));
    }
    store(v, lanes, product.bias, product.out.type, n + j, product.out.rows[row]);
  }
}

}  // namespace
}  // namespace mamba::ops::linear_detail
MAMBA_AVX512_BF16_END
