// Packed weights as panels of linear_detail::bf16::many_rows. In both a vector holds 16 columns beside each other, so
// codes become bfloat16 where they stand: once for a product, without a row of W ever lying in memory.

#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/quantized_linear/kernel.h"

#ifdef MAMBA_AVX512_BF16
#include <algorithm>

#include "mamba/ops/linear/bf16-inl.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::quantized_detail {
namespace {

// Groups [begin, end) of a block: pair p of them to to[p * stride ...].
template <int kBits>
void pack_block(const Packed& weight, const uint8_t* block, int64_t begin, int64_t end, uint32_t* to, int64_t stride) {
  alignas(64) static constexpr uint16_t kPairs[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i pairs = _mm512_load_si512(kPairs);
  const __m512i mask = _mm512_set1_epi32((1 << kBits) - 1);
  for (int64_t g = begin; g < end; ++g) {
    const uint8_t* const tile = block + g * weight.tile_bytes();
    const uint8_t* const scales = tile + weight.code_bytes();
    const __m512 scale = load_sixteen(weight.type, scales);
    const __m512 bias = load_sixteen(weight.type, scales + weight.scale_bytes());
    for (int64_t w = 0; w < weight.group_words(); ++w) {
      __m512i word = _mm512_loadu_si512(tile + w * 64);
      const auto next = [&]() __attribute__((always_inline)) {
        const __m512 code = _mm512_cvtepi32_ps(_mm512_and_si512(word, mask));
        word = _mm512_srli_epi32(word, kBits);
        return _mm512_fmadd_ps(code, scale, bias);
      };
      MAMBA_CPU_UNROLL(4)
      for (int c = 0; c < 32 / kBits; c += 2) {
        const __m512 even = next();
        const __m512 odd = next();
        const auto halves = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
        _mm512_store_si512(to, _mm512_permutexvar_epi16(pairs, halves));
        to += stride;
      }
    }
  }
}

}  // namespace

void bf16::pack_panel(const Packed& weight, int64_t n, int64_t columns, int64_t first, int64_t depth, uint32_t* panel) {
  constexpr int64_t kVector = Packed::kColumns;
  const int64_t stride = (columns + kVector - 1) / kVector * kVector;
  const int64_t begin = 2 * first / weight.group_size;
  const int64_t end = 2 * (first + depth) / weight.group_size;
  for (int64_t j = 0; j < columns; j += kVector) {
    const uint8_t* const block = weight.block((n + j) / kVector);
    if (weight.bits == 4) {
      pack_block<4>(weight, block, begin, end, panel + j, stride);
    } else {
      pack_block<8>(weight, block, begin, end, panel + j, stride);
    }
  }
}

}  // namespace mamba::ops::quantized_detail
MAMBA_AVX512_BF16_END

#else

namespace mamba::ops::quantized_detail {
void bf16::pack_panel(const Packed&, int64_t, int64_t, int64_t, int64_t, uint32_t*) {}
}  // namespace mamba::ops::quantized_detail
#endif
