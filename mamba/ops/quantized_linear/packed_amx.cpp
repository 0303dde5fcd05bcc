// Packed weights times some rows of bfloat16 on the tiles of AMX: a tile has the bytes of 64 k of up to 8 rows, another
// those codes of 16 columns, just as they lie in memory. Two products of tiles give all of a group's sums, which are
// the integers that packed_bf16.cpp adds up, so results are the same to the last bit.
//
// The sums of a group become floats, and codes of 4 bits bytes, while the tiles multiply the group before or after.

#include "mamba/ops/cpu/amx.h"
#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/linear/many_rows.h"
#include "mamba/ops/quantized_linear/kernel.h"

#ifdef MAMBA_AVX512_BF16
#include <algorithm>

#include "mamba/ops/linear/tiles-inl.h"
#include "mamba/ops/quantized_linear/few_bytes-inl.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::quantized_detail {
namespace {

using linear_detail::kTileRowBytes;
using linear_detail::kTileRows;

constexpr int kMaxRows = 8;
constexpr int kMinRows = 3;  // fewer are as fast without tiles
constexpr int64_t kFetchAhead = 4096;
constexpr int64_t kMaxGroup = 128;

// Tiles by number, the sums those of even groups; odd ones are two further on.
constexpr int kHigh = 0, kLow = 1, kCodes = 2, kHighSums = 4, kLowSums = 5;

linear_detail::TileShapes shapes_of(int64_t rows, int64_t depth) {
  const linear_detail::TileShape x{.rows = rows, .row_bytes = depth};
  const linear_detail::TileShape codes{.rows = depth / 4, .row_bytes = kTileRowBytes};
  const linear_detail::TileShape sums{.rows = rows, .row_bytes = kTileRowBytes};
  return {x, x, codes, codes, sums, sums, sums, sums};
}

struct Output {
  const float* bias;
  int64_t begin, end;  // columns
  const OutRows& y;
  int64_t row;
};

// A range of columns, group after group through all of its blocks.
template <int kRows, int kBits, typename Tiles>
class Walk {
 public:
  Walk(const Packed& weight, const FewBytes& x, const Output& out)
      : weight_(weight),
        x_(x),
        out_(out),
        depth_(std::min(weight.group_size, kTileRowBytes)),
        tiles_(shapes_of(kRows, depth_)),
        column_(out.begin / kColumns * kColumns),
        at_(weight.block(column_ / kColumns)),
        finished_(at_) {}

  void run() {
    __m512 total[kRows];
    clear(total);
    const int64_t blocks = (out_.end - column_ + kColumns - 1) / kColumns;
    const int64_t count = blocks * x_.groups;
    apart<0>(at_);
    multiply<0>();
    int64_t i = 1;
    for (; i + 2 <= count; i += 2) {
      multiply<1>();
      finish<0>(total);
      multiply<0>();
      finish<1>(total);
    }
    if (i < count) {
      multiply<1>();
      finish<0>(total);
      finish<1>(total);
    } else {
      finish<0>(total);
    }
  }

 private:
  using Total = __m512 (&)[kRows];

  MAMBA_CPU_INLINE static void clear(Total total) {
    MAMBA_CPU_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
      total[i] = _mm512_setzero_ps();
    }
  }

  // Codes of 4 bits as bytes.
  template <int kOdd>
  MAMBA_CPU_INLINE void apart(const uint8_t* codes) {
    if constexpr (kBits == 4) {
      const __m512i mask = _mm512_set1_epi8(15);
      uint8_t* to = bytes_[kOdd];
      for (const uint8_t* const end = codes + weight_.code_bytes(); codes < end; codes += 64, to += 128) {
        const __m512i words = _mm512_loadu_si512(codes);
        _mm512_store_si512(to, _mm512_and_si512(words, mask));
        _mm512_store_si512(to + 64, _mm512_and_si512(_mm512_srli_epi32(words, 4), mask));
      }
    }
  }

  // The group at at_, whose codes are apart. Then the next one's come apart: behind the last there is one, too, of
  // whatever is there, as long as it is weights.
  template <int kOdd>
  MAMBA_CPU_INLINE void multiply() {
    constexpr int kOf = 2 * kOdd;
    const uint8_t* codes = kBits == 4 ? bytes_[kOdd] : at_;
    const uint8_t* x = x_.bytes + group_ * weight_.group_size;
    tiles_.template zero<kHighSums + kOf>();
    tiles_.template zero<kLowSums + kOf>();
    for (int64_t k = 0; k < weight_.group_size; k += depth_) {
      tiles_.template load<kCodes>(codes + k * kColumns, kTileRowBytes);
      tiles_.template load<kHigh>(x + k, x_.row_bytes);
      tiles_.template multiply_bytes<kHighSums + kOf, kHigh, kCodes>();
      tiles_.template load<kLow>(x + x_.k + k, x_.row_bytes);
      tiles_.template multiply_bytes<kLowSums + kOf, kLow, kCodes>();
    }
    for (int64_t line = 0; line < weight_.tile_bytes(); line += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(at_ + line + kFetchAhead), _MM_HINT_T0);
    }
    at_ += weight_.tile_bytes();
    if (++group_ == x_.groups) {
      group_ = 0;
    }
    if (at_ < weight_.tiles + weight_.blocks() * weight_.block_bytes()) {
      apart<1 - kOdd>(at_);
    }
  }

  template <int kOdd>
  MAMBA_CPU_INLINE void finish(Total total) {
    constexpr int kOf = 2 * kOdd;
    tiles_.template store<kHighSums + kOf>(sums_[0], kTileRowBytes);
    tiles_.template store<kLowSums + kOf>(sums_[1], kTileRowBytes);
    const GroupScales scales(weight_, finished_ + weight_.code_bytes());
    MAMBA_CPU_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
      const __m512i high = _mm512_load_si512(sums_[0] + i * 16);
      const __m512i low = _mm512_add_epi32(_mm512_load_si512(sums_[1] + i * 16), x_.start(i, finished_group_));
      total[i] = x_.add_group(i, finished_group_, high, low, scales, total[i]);
    }
    finished_ += weight_.tile_bytes();
    if (++finished_group_ == x_.groups) {
      finished_group_ = 0;
      const int64_t begin = std::max(column_, out_.begin);
      const int64_t count = std::min(column_ + kColumns, out_.end) - begin;
      MAMBA_CPU_UNROLL(8)
      for (int i = 0; i < kRows; ++i) {
        store_columns(total[i], begin, count, out_.bias, out_.y, out_.row + i);
      }
      column_ += kColumns;
      clear(total);
    }
  }

  const Packed& weight_;
  const FewBytes& x_;
  const Output& out_;
  const int64_t depth_;
  Tiles tiles_;
  int64_t column_;  // of the block that is finished next
  const uint8_t* at_;
  const uint8_t* finished_;
  int64_t group_ = 0;
  int64_t finished_group_ = 0;
  alignas(64) int32_t sums_[2][kMaxRows * 16];
  alignas(64) uint8_t bytes_[2][kBits == 4 ? kMaxGroup * kColumns : 64];
};

template <int kRows, int kBits>
void walk(const Packed& weight, const FewBytes& x, const Output& out) {
#ifdef MAMBA_AMX
  if (!linear_detail::amx::is_emulated()) {
    Walk<kRows, kBits, linear_detail::ProcessorTiles>(weight, x, out).run();
    return;
  }
#endif
  Walk<kRows, kBits, linear_detail::EmulatedTiles>(weight, x, out).run();
}

template <int kBits>
void columns_of(const Packed& weight, int64_t rows, const FewBytes& x, const float* bias, int64_t begin, int64_t end,
                const OutRows& y) {
  constexpr decltype(&walk<kMinRows, kBits>) kOf[] = {walk<3, kBits>, walk<4, kBits>, walk<5, kBits>,
                                                      walk<6, kBits>, walk<7, kBits>, walk<8, kBits>};
  int64_t some = 0;
  for (int64_t row = 0; row < rows; row += some) {
    const int64_t times = (rows - row + kMaxRows - 1) / kMaxRows;
    some = (rows - row + times - 1) / times;
    kOf[some - kMinRows](weight, x.from_row(row), {.bias = bias, .begin = begin, .end = end, .y = y, .row = row});
  }
}

}  // namespace

bool amx::can_multiply(int64_t rows) {
  return rows >= kMinRows && (linear_detail::amx::is_emulated() || cpu::has_tiles());
}

void amx::columns(const Packed& weight, int64_t rows, const float* packed, const float* bias, int64_t begin,
                  int64_t end, const OutRows& y) {
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
bool amx::can_multiply(int64_t) {
  return false;
}
void amx::columns(const Packed&, int64_t, const float*, const float*, int64_t, int64_t, const OutRows&) {}
}  // namespace mamba::ops::quantized_detail
#endif
