// Packed weights times a few rows of bfloat16, where the processor adds up the products of pairs: codes are small
// numbers, which bfloat16 holds exactly, so a group is summed as codes times x, and its scale and bias come once for
// all of it:
//
//   sum over k of (scale code + bias) x = scale (sum of (code - middle) x) + (bias + scale middle) (sum of x)
//
// The middle of the codes is taken off so that the two terms do not cancel where weights are about 0. Of 8 bits it is
// 127.5, whose halves leave 7 bits of magnitude: an index into a table of 128 bytes, as large as two registers.
//
// A lane is a column of the result: a vector holds 32 bits of codes of each of 16 columns, which tables turn into pairs
// of bfloat16, and x comes as one pair for all lanes. So nothing is added up across lanes, and scales are vectors.

#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/quantized_linear/kernel.h"

#ifdef MAMBA_AVX512_BF16
#include <algorithm>
#include <array>
#include <bit>

#include "mamba/ops/linear/bf16-inl.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::quantized_detail {
namespace {

constexpr int64_t kColumns = Packed::kColumns;
constexpr int kMaxRows = 8;

// A row of x: its elements in the order in which codes come apart, then the sum of each group.
int64_t row_floats(const Packed& weight) {
  return linear_detail::packed_stride(weight.k / 2 + weight.groups());
}

constexpr uint16_t bf16_bits(float value) {
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
}

// The two kinds of codes: apart() makes pairs of a word's codes in each lane, less the middle.

struct Nibbles {
  static constexpr int kPairs = 4;
  static constexpr float kMiddle = 8.0f;
  // The bytes of a word's eight elements of x in the order of codes: pair i has codes i and i + 4.
  static constexpr std::array<uint8_t, 16> kOrder = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};

  // The index's fifth bit belongs to another code, so the table has each value twice.
  static constexpr std::array<uint16_t, 32> kValues = [] {
    std::array<uint16_t, 32> values{};
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = bf16_bits(static_cast<float>(i % 16) - kMiddle);
    }
    return values;
  }();

  __m512i table;

  Nibbles() : table(_mm512_loadu_si512(kValues.data())) {}

  void apart(__m512i word, __m512bh (&pairs)[kPairs]) const {
    pairs[0] = as_bf16(_mm512_permutexvar_epi16(word, table));
    pairs[1] = as_bf16(_mm512_permutexvar_epi16(_mm512_srli_epi16(word, 4), table));
    pairs[2] = as_bf16(_mm512_permutexvar_epi16(_mm512_srli_epi16(word, 8), table));
    pairs[3] = as_bf16(_mm512_permutexvar_epi16(_mm512_srli_epi16(word, 12), table));
  }
};

struct Bytes {
  static constexpr int kPairs = 2;
  static constexpr float kMiddle = 127.5f;

  // The lower and the higher byte of each magnitude, then how a vector of each makes words: pair i of a lane has codes
  // 2i and 2i + 1. An index's seventh bit tells which of two vectors it means.
  using Table = std::array<uint8_t, 128>;
  static constexpr std::array<Table, 3> kTables = [] {
    std::array<Table, 3> tables{};
    for (size_t i = 0; i < 128; ++i) {
      const uint16_t bits = bf16_bits(static_cast<float>(i) + 0.5f);
      tables[0][i] = static_cast<uint8_t>(bits);
      tables[1][i] = static_cast<uint8_t>(bits >> 8);
      const size_t pair = i / 64;
      const size_t code = i % 64 / 4 * 4 + 2 * pair + i % 4 / 2;
      tables[2][i] = static_cast<uint8_t>(code + i % 2 * 64);
    }
    return tables;
  }();

  static __m512i half(size_t table, size_t which) { return _mm512_loadu_si512(kTables[table].data() + 64 * which); }

  __m512i low[2];
  __m512i high[2];
  __m512i words[2];
  __m512i sign;

  Bytes()
      : low{half(0, 0), half(0, 1)},
        high{half(1, 0), half(1, 1)},
        words{half(2, 0), half(2, 1)},
        sign(_mm512_set1_epi8(static_cast<char>(0x80))) {}

  void apart(__m512i word, __m512bh (&pairs)[kPairs]) const {
    constexpr int kFirstOrBothOthers = 0xF8;
    const __m512i lower = _mm512_permutex2var_epi8(low[0], word, low[1]);
    const __m512i magnitude = _mm512_permutex2var_epi8(high[0], word, high[1]);
    const __m512i upper = _mm512_ternarylogic_epi64(magnitude, word, sign, kFirstOrBothOthers);
    pairs[0] = as_bf16(_mm512_permutex2var_epi8(lower, words[0], upper));
    pairs[1] = as_bf16(_mm512_permutex2var_epi8(lower, words[1], upper));
  }
};

template <Float kType>
__m512 load_scales(const uint8_t* p) {
  return load_sixteen(kType, p);
}

// total[i]: the products of row i and a block's columns.
template <int kRows, typename Codes, Float kType>
__attribute__((noinline)) void multiply_block(const Packed& weight, const uint8_t* block, const float* packed,
                                              int64_t stride, __m512* total) {
  const Codes codes;
  __m512 sums[kRows];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    sums[i] = _mm512_setzero_ps();
  }
  const auto* x = reinterpret_cast<const uint32_t*>(packed);
  const float* x_sums = packed + weight.k / 2;
  const int64_t code_bytes = weight.code_bytes();
  const uint8_t* const end = block + weight.block_bytes();
  for (const uint8_t* at = block; at < end; ++x_sums) {
    // Two sums of each row, since an addition waits for the one before.
    __m512 even[kRows];
    __m512 odd[kRows];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      even[i] = _mm512_setzero_ps();
      odd[i] = _mm512_setzero_ps();
    }
    for (const uint8_t* const codes_end = at + code_bytes; at < codes_end; at += 64) {
      __m512bh pairs[Codes::kPairs];
      codes.apart(_mm512_loadu_si512(at), pairs);
#pragma GCC unroll 2
      for (int p = 0; p < Codes::kPairs; p += 2) {
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
          const uint32_t* const pair = x + i * stride + p;
          even[i] = _mm512_dpbf16_ps(even[i], pairs[p], as_bf16(_mm512_set1_epi32(static_cast<int>(pair[0]))));
          odd[i] = _mm512_dpbf16_ps(odd[i], pairs[p + 1], as_bf16(_mm512_set1_epi32(static_cast<int>(pair[1]))));
        }
      }
      x += Codes::kPairs;
    }
    constexpr int64_t kScaleBytes = kColumns * linear_detail::size_of(kType);
    const __m512 scale = load_scales<kType>(at);
    const __m512 bias = _mm512_fmadd_ps(scale, _mm512_set1_ps(Codes::kMiddle), load_scales<kType>(at + kScaleBytes));
    at += 2 * kScaleBytes;
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const __m512 x_sum = _mm512_set1_ps(x_sums[i * stride]);
      sums[i] = _mm512_fmadd_ps(_mm512_add_ps(even[i], odd[i]), scale, _mm512_fmadd_ps(bias, x_sum, sums[i]));
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    total[i] = sums[i];
  }
}

template <typename Codes, Float kType>
void columns_of(const Packed& weight, int64_t rows, const float* packed, const float* bias, int64_t begin, int64_t end,
                const OutRows& y) {
  constexpr decltype(&multiply_block<1, Codes, kType>) kOf[kMaxRows] = {
      multiply_block<1, Codes, kType>, multiply_block<2, Codes, kType>, multiply_block<3, Codes, kType>,
      multiply_block<4, Codes, kType>, multiply_block<5, Codes, kType>, multiply_block<6, Codes, kType>,
      multiply_block<7, Codes, kType>, multiply_block<8, Codes, kType>};
  const int64_t stride = row_floats(weight);
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int64_t column = begin; column < end;) {
    const int64_t lane = column % kColumns;
    const int64_t count = std::min(kColumns - lane, end - column);
    const __m512i wanted = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(lane)));
    int64_t some = 0;
    for (int64_t row = 0; row < rows; row += some) {
      some = std::min<int64_t>(kMaxRows, rows - row);
      __m512 total[kMaxRows];
      kOf[some - 1](weight, weight.block(column / kColumns), packed + row * stride, stride, total);
      for (int64_t i = 0; i < some; ++i) {
        store(_mm512_permutexvar_ps(wanted, total[i]), count, bias, y.type, column,
              y.rows[static_cast<size_t>(row + i)]);
      }
    }
    column += count;
  }
}

template <typename Codes>
void columns_of(const Packed& weight, int64_t rows, const float* packed, const float* bias, int64_t begin, int64_t end,
                const OutRows& y) {
  switch (weight.type) {
    case Float::kFloat32:
      return columns_of<Codes, Float::kFloat32>(weight, rows, packed, bias, begin, end, y);
    case Float::kBfloat16:
      return columns_of<Codes, Float::kBfloat16>(weight, rows, packed, bias, begin, end, y);
    case Float::kFloat16:
      return columns_of<Codes, Float::kFloat16>(weight, rows, packed, bias, begin, end, y);
  }
}

}  // namespace

void bf16::pack(const Rows& x, const Packed& weight, int64_t begin, int64_t end, float* packed) {
  const int64_t stride = row_floats(weight);
  const __m512i order =
      _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(Nibbles::kOrder.data())));
  for (int64_t row = begin; row < end; ++row) {
    const auto* from = static_cast<const uint16_t*>(x.rows[static_cast<size_t>(row)]);
    float* const of_row = packed + row * stride;
    auto* to = reinterpret_cast<uint16_t*>(of_row);
    for (int64_t k = 0; k < weight.k; k += 32) {
      const __m512i elements = _mm512_loadu_si512(from + k);
      _mm512_storeu_si512(to + k, weight.bits == 4 ? _mm512_shuffle_epi8(elements, order) : elements);
    }
    float* sums = of_row + weight.k / 2;
    for (int64_t k = 0; k < weight.k; k += weight.group_size, ++sums) {
      __m512 sum = _mm512_setzero_ps();
      for (int64_t i = k; i < k + weight.group_size; i += 16) {
        const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i)));
        sum = _mm512_add_ps(sum, _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
      }
      *sums = _mm512_reduce_add_ps(sum);
    }
  }
}

void bf16::columns(const Packed& weight, int64_t rows, const float* packed, const float* bias, int64_t begin,
                   int64_t end, const OutRows& y) {
  if (weight.bits == 4) {
    columns_of<Nibbles>(weight, rows, packed, bias, begin, end, y);
  } else {
    columns_of<Bytes>(weight, rows, packed, bias, begin, end, y);
  }
}

}  // namespace mamba::ops::quantized_detail
MAMBA_AVX512_BF16_END

#else

namespace mamba::ops::quantized_detail {
void bf16::pack(const Rows&, const Packed&, int64_t, int64_t, float*) {}
void bf16::columns(const Packed&, int64_t, const float*, const float*, int64_t, int64_t, const OutRows&) {}
}  // namespace mamba::ops::quantized_detail
#endif
