// As few_rows.cpp, where x is bfloat16 and the processor adds up the products of pairs: codes are small integers, which
// bfloat16 holds exactly, so a group is summed as codes times x, and its scale and bias come once for all of it:
//
//   sum over k of (scale code + bias) x = scale (sum of (code - middle) x) + (bias + scale middle) (sum of x)
//
// The middle of the codes is taken off so that the two terms do not cancel where weights are about 0.
//
// A lane is a column. 64 bytes of each of 16 columns, as they lie, are turned over in registers: then a vector holds 32
// bits of codes of every column, which shifts and tables take apart, and x comes as one pair for all lanes. So nothing
// is added up across lanes, and scales are vectors.

#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/quantized_linear/kernel.h"

#ifdef MAMBA_AVX512_BF16
#include <algorithm>
#include <array>
#include <cstring>

#include "mamba/ops/linear/bf16-inl.h"
#include "mamba/ops/quantized_linear/columns-inl.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::quantized_detail {
namespace {

constexpr int kMaxRows = 8;
constexpr int64_t kWords = 16;  // of 32 bits, of each column at a time
// Words whose products share a sum: a group, or what a vector has of it.
constexpr int64_t kMaxSumWords = kWords;
constexpr int64_t kSegment = 8192;  // of k at a time, so that the scales of a block fit the stack
constexpr int64_t kSegmentGroups = kSegment / 32;
constexpr int64_t kMinPrefetchBytes = 3072;

int64_t words_of_group(const Quantized& weight) {
  return weight.group_size * weight.bits / 32;
}
int64_t words_of_sum(const Quantized& weight) {
  return std::min(words_of_group(weight), kMaxSumWords);
}
int64_t elements_of_sum(const Quantized& weight) {
  return words_of_sum(weight) * 32 / weight.bits;
}

// A row of x: its elements in the order in which codes come apart, then the sums of those that share one.
int64_t row_floats(const Quantized& weight) {
  return linear_detail::packed_stride(weight.k / 2 + weight.k / elements_of_sum(weight));
}

// The two formats: apart() makes pairs of a word's codes in each lane, less the middle, times kUnit.

struct Nibbles {
  static constexpr int kPairs = 4;
  static constexpr float kMiddle = 8.0f;
  static constexpr float kUnit = 1.0f;

  // Pair i: codes i and i + 4. The index's fifth bit belongs to another code, so the table has each value twice.
  static void apart(__m512i word, __m512i table, __m512bh (&pairs)[kPairs]) {
    pairs[0] = as_bf16(_mm512_permutexvar_epi16(word, table));
    pairs[1] = as_bf16(_mm512_permutexvar_epi16(_mm512_srli_epi16(word, 4), table));
    pairs[2] = as_bf16(_mm512_permutexvar_epi16(_mm512_srli_epi16(word, 8), table));
    pairs[3] = as_bf16(_mm512_permutexvar_epi16(_mm512_srli_epi16(word, 12), table));
  }

  static __m512i table() {
    alignas(64) std::array<uint16_t, 32> values{};
    for (size_t i = 0; i < values.size(); ++i) {
      const float value = static_cast<float>(i % 16) - kMiddle;
      uint32_t bits = 0;
      std::memcpy(&bits, &value, sizeof(bits));
      values[i] = static_cast<uint16_t>(bits >> 16);
    }
    return _mm512_load_si512(values.data());
  }

  // Where element i of a word's eight goes.
  static constexpr int kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};
};

struct Bytes {
  static constexpr int kPairs = 2;
  static constexpr float kMiddle = 128.0f;
  static constexpr float kUnit = 16777216.0f;  // a code is taken to a lane's highest byte, and widened from there

  // Pair i: codes 2i and 2i + 1. A float that holds an integer of 8 bits is bfloat16 with zeros below.
  static void apart(__m512i word, __m512i table, __m512bh (&pairs)[kPairs]) {
    const __m512i from_middle = _mm512_xor_si512(word, _mm512_set1_epi8(static_cast<char>(0x80)));
    __m512i wide[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512i control = _mm512_or_si512(table, _mm512_set1_epi32(i << 24));
      wide[i] = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_shuffle_epi8(from_middle, control)));
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      pairs[i] = as_bf16(_mm512_or_si512(_mm512_srli_epi32(wide[2 * i], 16), wide[2 * i + 1]));
    }
  }

  // A shuffle that takes a word's first byte up and leaves zeros below.
  static __m512i table() {
    const __m128i lane = _mm_set_epi32(0x0C808080, 0x08808080, 0x04808080, 0x00808080);
    return _mm512_broadcast_i32x4(lane);
  }

  static constexpr int kOrder[8] = {0, 1, 2, 3, 4, 5, 6, 7};
};

// Of a segment, from one block of columns on.
struct Block {
  const uint8_t* columns[kColumns];
  const uint8_t* next;  // what is read some columns later
  int64_t words;        // of a column
  int64_t sum_words;
  int64_t sums_to_group;
  const float* scales;  // of each group, the columns' beside each other
  const float* biases;
  const uint32_t* x;  // pairs
  const float* x_sums;
  int64_t x_stride;  // words
};

// total[i] += the products of row i and all columns.
template <int kRows, typename Format>
__attribute__((noinline)) void add_products(const Block& in, __m512* total) {
  const __m512i table = Format::table();
  __m512 sums[kRows];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    sums[i] = total[i];
  }
  const uint32_t* x = in.x;
  int64_t number = 0;  // of a sum
  for (int64_t at = 0; at < in.words; at += kWords) {
    const int64_t count = std::min(kWords, in.words - at);
    const auto mask = static_cast<__mmask16>((uint32_t{1} << count) - 1);
    __m512i words[kColumns];
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) {
      words[j] = _mm512_maskz_loadu_epi32(mask, in.columns[j] + at * 4);
      __builtin_prefetch(in.next + at * 4 * kColumns + j * 64, 0, 2);
    }
    turn_over(words);
    alignas(64) __m512i turned[kColumns];
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) {
      turned[j] = words[j];
    }
    for (int64_t first = 0; first < count; first += in.sum_words, ++number) {
      // Two sums of each row, since an addition waits for the one before.
      __m512 even[kRows];
      __m512 odd[kRows];
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        even[i] = _mm512_setzero_ps();
        odd[i] = _mm512_setzero_ps();
      }
      for (int64_t word = first; word < first + in.sum_words; ++word) {
        __m512bh pairs[Format::kPairs];
        Format::apart(turned[word], table, pairs);
#pragma GCC unroll 4
        for (int p = 0; p < Format::kPairs; p += 2) {
#pragma GCC unroll 8
          for (int i = 0; i < kRows; ++i) {
            const uint32_t* const pair = x + i * in.x_stride + p;
            even[i] = _mm512_dpbf16_ps(even[i], pairs[p], as_bf16(_mm512_set1_epi32(static_cast<int>(pair[0]))));
            odd[i] = _mm512_dpbf16_ps(odd[i], pairs[p + 1], as_bf16(_mm512_set1_epi32(static_cast<int>(pair[1]))));
          }
        }
        x += Format::kPairs;
      }
      const int64_t group = number / in.sums_to_group;
      const __m512 scale = _mm512_loadu_ps(in.scales + group * kColumns);
      const __m512 bias = _mm512_loadu_ps(in.biases + group * kColumns);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const __m512 x_sum = _mm512_set1_ps(in.x_sums[i * in.x_stride + number]);
        sums[i] = _mm512_fmadd_ps(_mm512_add_ps(even[i], odd[i]), scale, _mm512_fmadd_ps(bias, x_sum, sums[i]));
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    total[i] = sums[i];
  }
}

template <typename Format>
void add_products(int64_t rows, const Block& in, __m512* total) {
  constexpr decltype(&add_products<1, Format>) kOf[kMaxRows] = {
      add_products<1, Format>, add_products<2, Format>, add_products<3, Format>, add_products<4, Format>,
      add_products<5, Format>, add_products<6, Format>, add_products<7, Format>, add_products<8, Format>};
  kOf[rows - 1](in, total);
}

template <typename Format>
void columns_of(const Quantized& weight, int64_t rows, const float* packed, const float* bias, int64_t begin,
                int64_t end, const OutRows& y) {
  alignas(64) float scales[kSegmentGroups * kColumns];
  alignas(64) float biases[kSegmentGroups * kColumns];
  const int64_t row_bytes = weight.row_bytes();
  const int64_t block_bytes = kColumns * row_bytes;
  const int64_t number_size = linear_detail::size_of(weight.type);
  const int64_t groups = weight.groups();
  const int64_t stride = row_floats(weight);
  const auto widen = weight.type == Float::kFloat32    ? widen_scales<Float::kFloat32, Format>
                     : weight.type == Float::kBfloat16 ? widen_scales<Float::kBfloat16, Format>
                                                       : widen_scales<Float::kFloat16, Format>;
  for (int64_t column = begin; column < end; column += kColumns) {
    const int64_t count = std::min<int64_t>(kColumns, end - column);
    int64_t held[kColumns];
    for (int64_t j = 0; j < kColumns; ++j) {
      held[j] = std::min(j, weight.n - 1 - column);
    }
    int64_t some = 0;
    for (int64_t row = 0; row < rows; row += some) {
      some = std::min<int64_t>(kMaxRows, rows - row);
      __m512 total[kMaxRows];
      for (__m512& v : total) {
        v = _mm512_setzero_ps();
      }
      for (int64_t at = 0; at < weight.k; at += kSegment) {
        const int64_t length = std::min(kSegment, weight.k - at);
        const int64_t first_group = at / weight.group_size;
        const int64_t segment_groups = length / weight.group_size;
        if (row == 0 || weight.k > kSegment) {
          const int64_t offset = (column * groups + first_group) * number_size;
          const Scales raw{.scales = static_cast<const uint8_t*>(weight.scales) + offset,
                           .biases = static_cast<const uint8_t*>(weight.biases) + offset,
                           .column_bytes = groups * number_size,
                           .columns = held,
                           .count = segment_groups};
          for (int64_t line = 0; line < kColumns * raw.column_bytes; line += 64) {
            __builtin_prefetch(raw.scales + 2 * kColumns * raw.column_bytes + line, 0, 2);
            __builtin_prefetch(raw.biases + 2 * kColumns * raw.column_bytes + line, 0, 2);
          }
          widen(raw, scales, biases);
        }
        Block block;
        for (int64_t j = 0; j < kColumns; ++j) {
          block.columns[j] = weight.codes + (column + held[j]) * row_bytes + at * weight.bits / 8;
        }
        block.next = weight.codes + column * row_bytes + std::max(block_bytes, kMinPrefetchBytes) +
                     at * weight.bits / 8 * kColumns;
        block.words = length * weight.bits / 32;
        block.sum_words = words_of_sum(weight);
        block.sums_to_group = words_of_group(weight) / block.sum_words;
        block.scales = scales;
        block.biases = biases;
        const float* const of_row = packed + row * stride;
        block.x = reinterpret_cast<const uint32_t*>(of_row) + at / 2;
        block.x_sums = of_row + weight.k / 2 + at / elements_of_sum(weight);
        block.x_stride = stride;
        add_products<Format>(some, block, total);
      }
      for (int64_t i = 0; i < some; ++i) {
        store(total[i], count, bias, y.type, column, y.rows[static_cast<size_t>(row + i)]);
      }
    }
  }
}

}  // namespace

void bf16::pack(const Rows& x, const Quantized& weight, int64_t begin, int64_t end, float* packed) {
  const int64_t stride = row_floats(weight);
  const int64_t together = elements_of_sum(weight);
  const int* const order = weight.bits == 4 ? Nibbles::kOrder : Bytes::kOrder;
  for (int64_t row = begin; row < end; ++row) {
    const auto* from = static_cast<const uint16_t*>(x.rows[static_cast<size_t>(row)]);
    float* const of_row = packed + row * stride;
    auto* to = reinterpret_cast<uint16_t*>(of_row);
    for (int64_t k = 0; k < weight.k; k += 8) {
      for (int i = 0; i < 8; ++i) {
        to[k + order[i]] = from[k + i];
      }
    }
    float* sums = of_row + weight.k / 2;
    for (int64_t k = 0; k < weight.k; k += together, ++sums) {
      __m512 sum = _mm512_setzero_ps();
      for (int64_t i = k; i < k + together; i += 16) {
        const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i)));
        sum = _mm512_add_ps(sum, _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
      }
      *sums = _mm512_reduce_add_ps(sum);
    }
  }
}

void bf16::columns(const Quantized& weight, int64_t rows, const float* packed, const float* bias, int64_t begin,
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
void bf16::pack(const Rows&, const Quantized&, int64_t, int64_t, float*) {}
void bf16::columns(const Quantized&, int64_t, const float*, const float*, int64_t, int64_t, const OutRows&) {}
}  // namespace mamba::ops::quantized_detail
#endif
