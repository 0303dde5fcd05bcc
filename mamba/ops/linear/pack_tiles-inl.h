// Pieces of amx::many_rows: its operands, packed into tiles of 16 rows of 32 elements. A tile of the left operand is 16
// of its rows, a step of 32 elements in k; one of the right operand is the same turned, a row of it a pair of
// neighbours in k for each of 16 columns. What lies outside an operand is 0.
#pragma once

#include <algorithm>
#include <cstdint>

#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/linear/many_rows.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::linear_detail {
namespace {

constexpr int64_t kStep = 32;               // elements of k in a tile
constexpr int64_t kTileElements = 16 * 32;  // bfloat16
constexpr int64_t kPanelColumns = 32;       // two tiles of the right operand lie beside each other

constexpr int64_t steps_of(int64_t k) {
  return (k + kStep - 1) / kStep;
}
constexpr int64_t tiles_of(int64_t rows) {
  return (rows + 15) / 16;
}

constexpr __mmask32 first_lanes(int64_t count) {
  return static_cast<__mmask32>((uint64_t{1} << std::clamp<int64_t>(count, 0, 32)) - 1);
}

// Those of 32 elements of a row that `lanes` has, 0 for the others; 0 without a row.
MAMBA_CPU_INLINE inline __m512i load_part(const uint16_t* row, int64_t at, __mmask32 lanes) {
  return row == nullptr ? _mm512_setzero_si512() : _mm512_maskz_loadu_epi16(lanes, row + at);
}

// Only a hint, so that where it points need not be memory.
inline void fetch(const uint16_t* near, int64_t elements) {
  __builtin_prefetch(
      reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(near) + 2 * static_cast<uintptr_t>(elements)));
}

// 16 vectors of 16 change places: lane j of vector i with lane i of vector j.
MAMBA_CPU_INLINE inline void transpose_16x16(__m512i (&r)[16]) {
  __m512i t[16];
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  // r[4 q + c]: of each group of four lanes, element c of vectors 4 q ... 4 q + 3.
  MAMBA_CPU_UNROLL(4)
  for (int q = 0; q < 16; q += 4) {
    r[q] = _mm512_unpacklo_epi64(t[q], t[q + 2]);
    r[q + 1] = _mm512_unpackhi_epi64(t[q], t[q + 2]);
    r[q + 2] = _mm512_unpacklo_epi64(t[q + 1], t[q + 3]);
    r[q + 3] = _mm512_unpackhi_epi64(t[q + 1], t[q + 3]);
  }
  MAMBA_CPU_UNROLL(4)
  for (int c = 0; c < 4; ++c) {
    const __m512i a = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88), b = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xDD);
    const __m512i d = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88),
                  e = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xDD);
    t[c] = _mm512_shuffle_i32x4(a, d, 0x88);
    t[8 + c] = _mm512_shuffle_i32x4(a, d, 0xDD);
    t[4 + c] = _mm512_shuffle_i32x4(b, e, 0x88);
    t[12 + c] = _mm512_shuffle_i32x4(b, e, 0xDD);
  }
  MAMBA_CPU_UNROLL(16)
  for (int i = 0; i < 16; ++i) {
    r[i] = t[i];
  }
}

// Elements 0 to 15, and 16 to 31, of two rows side by side.
MAMBA_CPU_INLINE inline void interleave(__m512i even, __m512i odd, __m512i& low, __m512i& high) {
  const __m512i a = _mm512_unpacklo_epi16(even, odd), b = _mm512_unpackhi_epi16(even, odd);
  low = _mm512_permutex2var_epi64(a, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), b);
  high = _mm512_permutex2var_epi64(a, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), b);
}

MAMBA_CPU_INLINE inline void store_tile(const __m512i (&r)[16], uint16_t* tile) {
  MAMBA_CPU_UNROLL(16)
  for (int i = 0; i < 16; ++i) {
    _mm512_store_si512(tile + i * kStep, r[i]);
  }
}

// Tiles [begin, end) of the left operand's rows from `first` on, m in all, one's steps after another's, to packed +
// tile * steps * kTileElements.
inline void pack_left_tiles(const Left& left, int64_t first, int64_t m, int64_t k, int64_t begin, int64_t end,
                            uint16_t* packed) {
  const int64_t steps = steps_of(k);
  const auto row_of = [&](int64_t row, int64_t count) {
    return row < count ? static_cast<const uint16_t*>(left.rows.rows[static_cast<size_t>(row)]) : nullptr;
  };
  if (!left.transposed) {
    for (int64_t row = 16 * begin; row < 16 * end; ++row) {
      const uint16_t* const from = row_of(first + row, m);
      uint16_t* const to = packed + row / 16 * steps * kTileElements + row % 16 * kStep;
      for (int64_t s = 0; s < steps; ++s) {
        _mm512_store_si512(to + s * kTileElements, load_part(from, s * kStep, first_lanes(k - s * kStep)));
      }
    }
    return;
  }
  // A line of 32 rows of k at a time: the line after it in each is fetched meanwhile.
  for (int64_t s = 0; s < steps; ++s) {
    for (int64_t tile = begin; tile < end; tile += 2) {
      const int64_t at = first + 16 * tile;
      const __mmask32 lanes = first_lanes(m - at);
      __m512i low[16], high[16];
      MAMBA_CPU_UNROLL(16)
      for (int p = 0; p < 16; ++p) {
        const uint16_t* const even = row_of(s * kStep + 2 * p, k);
        const uint16_t* const odd = row_of(s * kStep + 2 * p + 1, k);
        fetch(even, at + kStep);
        fetch(odd, at + kStep);
        interleave(load_part(even, at, lanes), load_part(odd, at, lanes), low[p], high[p]);
      }
      uint16_t* const to = packed + (tile * steps + s) * kTileElements;
      transpose_16x16(low);
      store_tile(low, to);
      if (tile + 1 < end) {
        transpose_16x16(high);
        store_tile(high, to + steps * kTileElements);
      }
    }
  }
}

// Half of step `s` of k of columns [n, n + columns), 32 at most, of the right operand: two tiles beside each other, the
// second only if there are more than 16 columns.
inline void pack_right(const Right& right, int64_t k, int64_t n, int64_t columns, int64_t s, int64_t half,
                       uint16_t* to) {
  const auto* const data = static_cast<const uint16_t*>(right.matrix.data);
  const int64_t stride = right.matrix.stride;
  const int64_t first = s * kStep, depth = std::min(kStep, k - first);
  if (right.by_k) {
    const uint16_t* const from = data + first * stride + n;
    const __mmask32 lanes = first_lanes(columns);
    const bool both = columns > 16;
    MAMBA_CPU_UNROLL(8)
    for (int64_t p = 8 * half; p < 8 * half + 8; ++p) {
      fetch(from, (kStep + 2 * p) * stride);
      fetch(from, (kStep + 2 * p + 1) * stride);
      const __m512i even = load_part(2 * p < depth ? from : nullptr, 2 * p * stride, lanes);
      const __m512i odd = load_part(2 * p + 1 < depth ? from : nullptr, (2 * p + 1) * stride, lanes);
      __m512i low, high;
      interleave(even, odd, low, high);
      _mm512_store_si512(to + p * kStep, low);
      if (both) {
        _mm512_store_si512(to + kTileElements + p * kStep, high);
      }
    }
    return;
  }
  const int64_t begin = 16 * half;
  if (begin >= columns) {
    return;
  }
  const uint16_t* const from = data + (n + begin) * stride + first;
  const __mmask32 lanes = first_lanes(depth);
  __m512i r[16];
  MAMBA_CPU_UNROLL(16)
  for (int64_t j = 0; j < 16; ++j) {
    fetch(from, j * stride + 4 * kStep);
    r[j] = load_part(begin + j < columns ? from : nullptr, j * stride, lanes);
  }
  transpose_16x16(r);
  store_tile(r, to + half * kTileElements);
}

}  // namespace
}  // namespace mamba::ops::linear_detail
MAMBA_AVX512_BF16_END
