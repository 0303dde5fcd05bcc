// Pieces of bf16::many_rows: its operands, packed. An element is a pair of neighbours in k.
#pragma once

#include <algorithm>
#include <cstdint>

#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/cpu/prefetch.h"
#include "mamba/ops/linear/many_rows.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::linear_detail {
namespace {

constexpr int64_t kRows = 8;  // of a block of the left operand
constexpr int64_t kVector = 16;
constexpr int64_t kPackedAhead = 256;  // elements: lines of a packed left operand are asked for so early

constexpr int64_t pairs_of(int64_t k) {
  return (k + 1) / 2;
}

// Eight vectors of eight change places: lane j of vector i with lane i of vector j.
inline void transpose_8x8(__m256i (&r)[8]) {
  __m256i two[8];
  MAMBA_CPU_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    two[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    two[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  __m256i four[8];
  MAMBA_CPU_UNROLL(2)
  for (int half = 0; half < 8; half += 4) {
    four[half] = _mm256_unpacklo_epi64(two[half], two[half + 2]);
    four[half + 1] = _mm256_unpackhi_epi64(two[half], two[half + 2]);
    four[half + 2] = _mm256_unpacklo_epi64(two[half + 1], two[half + 3]);
    four[half + 3] = _mm256_unpackhi_epi64(two[half + 1], two[half + 3]);
  }
  MAMBA_CPU_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2x128_si256(four[i], four[4 + i], 0x20);
    r[4 + i] = _mm256_permute2x128_si256(four[i], four[4 + i], 0x31);
  }
}

// Only a hint, so that where it points need not be memory.
inline void fetch_from(const void* near, int64_t bytes) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(near) + static_cast<uintptr_t>(bytes)));
}

// to[p * stride + i] = elements 2p and 2p + 1 of row i, for p < pairs_of(count) and i < 8; 0 for rows from `rows` on
// and behind element `count`. What lies `ahead` bytes further is fetched, and where it goes, if that is one stream.
inline void pack_eight(const uint16_t* const* from, int64_t rows, int64_t count, int64_t ahead, uint32_t* to,
                       int64_t stride) {
  int64_t at = 0;
  const auto turn = [&](__m256i(&r)[8], int64_t pairs) {
    transpose_8x8(r);
    uint32_t* const out = to + at / 2 * stride;
    MAMBA_CPU_UNROLL(8)
    for (int i = 0; i < 8; ++i) {
      if (i < pairs) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(out + i * stride), r[i]);
      }
    }
  };
  __m256i r[8];
  if (rows == 8) {
    for (; at + 16 <= count; at += 16) {
      MAMBA_CPU_UNROLL(8)
      for (int i = 0; i < 8; ++i) {
        r[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from[i] + at));
        if (at % 32 == 0) {
          fetch_from(from[i] + at, ahead);
        }
      }
      if (stride == kRows) {
        MAMBA_CPU_UNROLL(4)
        for (int i = 0; i < 4; ++i) {
          cpu::prefetch_to_write(to + at / 2 * kRows + kPackedAhead + i * 16);
        }
      }
      turn(r, 8);
    }
  }
  for (; at < count; at += 16) {
    const int64_t left = std::min<int64_t>(16, count - at);
    const auto mask = static_cast<__mmask16>((uint32_t{1} << left) - 1);
    for (int i = 0; i < 8; ++i) {
      r[i] = i < rows ? _mm256_maskz_loadu_epi16(mask, from[i] + at) : _mm256_setzero_si256();
    }
    turn(r, pairs_of(left));
  }
}

// Elements [0, count) of rows a and b, side by side; of a alone where b is null.
inline __m512i interleaved(const uint16_t* a, const uint16_t* b, int64_t count) {
  const auto mask = static_cast<__mmask16>((uint32_t{1} << count) - 1);
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, a));
  if (b == nullptr) {
    return low;
  }
  return _mm512_or_si512(low, _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, b)), 16));
}

// Rows [begin, end) of the left operand in blocks of kRows: row r's pair p to packed[(r / kRows * pairs + p) * kRows +
// r % kRows], r counted from piece_begin. `begin` starts a block.
inline void pack_left(const Rows& x, int64_t piece_begin, int64_t begin, int64_t end, int64_t k, uint32_t* packed) {
  const int64_t pairs = pairs_of(k);
  const auto row_of = [&](int64_t row) { return static_cast<const uint16_t*>(x.rows[static_cast<size_t>(row)]); };
  for (int64_t row = begin; row < end; row += kRows) {
    const int64_t rows = std::min(kRows, end - row);
    const uint16_t* from[kRows] = {};
    for (int64_t i = 0; i < rows; ++i) {
      from[i] = row_of(row + i);
    }
    const int64_t ahead =
        row + kRows < end ? reinterpret_cast<const char*>(row_of(row + kRows)) - reinterpret_cast<const char*>(from[0])
                          : 0;
    pack_eight(from, rows, k, ahead, packed + (row - piece_begin) * pairs, kRows);
  }
}

// The same of pairs [first_pair, last_pair) of an operand that lies in rows of k.
inline void pack_turned(const Rows& x, int64_t piece_begin, int64_t begin, int64_t end, int64_t k, int64_t first_pair,
                        int64_t last_pair, uint32_t* packed) {
  const int64_t pairs = pairs_of(k);
  const auto row_of = [&](int64_t row) { return static_cast<const uint16_t*>(x.rows[static_cast<size_t>(row)]); };
  uint32_t* const to = packed + (begin - piece_begin) * pairs;
  // Some of k's rows at a time, a line of each: that many are fetched ahead in time.
  constexpr int64_t kPairsAtOnce = 16;
  constexpr int64_t kLine = 32;
  for (int64_t first = first_pair; first < last_pair; first += kPairsAtOnce) {
    const int64_t last = std::min(last_pair, first + kPairsAtOnce);
    for (int64_t at = begin; at < end; at += kLine) {
      const int64_t blocks = std::min((end - at + kRows - 1) / kRows, kLine / kRows);
      uint32_t* const block = to + (at - begin) * pairs;
      for (int64_t i = 0; i < blocks; ++i) {
        for (int64_t p = first; p < last; p += 2) {
          cpu::prefetch_to_write(block + (i + kLine / kRows) * pairs * kRows + p * kRows);
        }
      }
      for (int64_t p = first; p < last; ++p) {
        const uint16_t* const even = row_of(2 * p) + at;
        const uint16_t* const odd = 2 * p + 1 < k ? row_of(2 * p + 1) + at : nullptr;
        fetch_from(even, kLine * 2);
        fetch_from(odd, kLine * 2);
        for (int64_t i = 0; i < blocks; i += 2) {
          const int64_t count = std::min(kVector, end - at - i * kRows);
          const __m512i both = interleaved(even + i * kRows, odd == nullptr ? nullptr : odd + i * kRows, count);
          _mm256_store_si256(reinterpret_cast<__m256i*>(block + (i * pairs + p) * kRows), _mm512_castsi512_si256(both));
          if (i + 1 < blocks) {
            _mm256_store_si256(reinterpret_cast<__m256i*>(block + ((i + 1) * pairs + p) * kRows),
                               _mm512_extracti64x4_epi64(both, 1));
          }
        }
      }
    }
  }
}

// As the first, of either kind.
inline void pack_left(const Left& left, int64_t piece_begin, int64_t begin, int64_t end, int64_t k, uint32_t* packed) {
  if (!left.transposed) {
    pack_left(left.rows, piece_begin, begin, end, k, packed);
    return;
  }
  pack_turned(left.rows, piece_begin, begin, end, k, 0, pairs_of(k), packed);
}

// Columns [n, n + columns) of the right operand as a panel of whole vectors; elements [k, k + depth) of k, k even.
inline void pack_panel(const Right& right, int64_t n, int64_t columns, int64_t k, int64_t depth, uint32_t* panel) {
  const int64_t vectors = (columns + kVector - 1) / kVector;
  const int64_t stride = right.matrix.stride;
  const auto* data = static_cast<const uint16_t*>(right.matrix.data);
  if (!right.by_k) {
    for (int64_t j = 0; j < vectors * kVector; j += 8) {
      const int64_t rows = std::clamp<int64_t>(columns - j, 0, 8);
      const uint16_t* from[8] = {};
      for (int64_t i = 0; i < rows; ++i) {
        from[i] = data + (n + j + i) * stride + k;
      }
      pack_eight(from, rows, depth, 16 * stride, panel + j, vectors * kVector);
    }
    return;
  }
  for (int64_t p = 0; p < pairs_of(depth); ++p) {
    const uint16_t* const even = data + (k + 2 * p) * stride + n;
    const uint16_t* const odd = 2 * p + 1 < depth ? even + stride : nullptr;
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t at = v * kVector;
      const __m512i both = interleaved(even + at, odd == nullptr ? nullptr : odd + at, std::min(kVector, columns - at));
      _mm512_store_si512(panel + (p * vectors + v) * kVector, both);
    }
  }
}

}  // namespace
}  // namespace mamba::ops::linear_detail
MAMBA_AVX512_BF16_END
