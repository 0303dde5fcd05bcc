// Pieces of many_rows: its operands, packed. Highway per-target header.
#if defined(MAMBA_OPS_LINEAR_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_OPS_LINEAR_PACK_INL_H_
#undef MAMBA_OPS_LINEAR_PACK_INL_H_
#else
#define MAMBA_OPS_LINEAR_PACK_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"
#include "mamba/ops/linear/many_rows.h"
#include "mamba/ops/linear/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::linear_detail {
namespace HWY_NAMESPACE {

// Rows x vectors of sums that fit the registers with a panel's vectors and one broadcast beside them.
#if HWY_TARGET <= HWY_AVX3
constexpr int kBlockRows = 12, kBlockVectors = 2;
#elif HWY_TARGET == HWY_NEON
constexpr int kBlockRows = 6, kBlockVectors = 4;
#elif HWY_TARGET == HWY_SCALAR
constexpr int kBlockRows = 2, kBlockVectors = 4;
#else
constexpr int kBlockRows = 6, kBlockVectors = 2;
#endif
constexpr int64_t kPanel = kBlockVectors * kLanes;

// Elements [k, k + 4) of four rows, widened, to to[i * kStride + j], i of an element and j of a row. Vectors of four on
// every target: the stores are what limits it.
template <int64_t kStride, typename T>
HWY_INLINE void transpose_4x4(const T* const* rows, int64_t k, float* to) {
#if HWY_TARGET == HWY_SCALAR
  for (int64_t i = 0; i < 4; ++i) {
    for (int64_t j = 0; j < 4; ++j) {
      to[i * kStride + j] = hn::GetLane(load_float(rows[j] + k + i));
    }
  }
#else
  const hn::FixedTag<float, 4> d;
  const hn::Rebind<T, decltype(d)> dt;
  const auto load = [&](int64_t row) HWY_ATTR {
    if constexpr (std::is_same_v<T, float>) {
      return hn::LoadU(d, rows[row] + k);
    } else {
      return hn::PromoteTo(d, hn::LoadU(dt, rows[row] + k));
    }
  };
  const auto a = load(0), b = load(1), c = load(2), e = load(3);
  const auto ac0 = hn::InterleaveLower(d, a, c), ac1 = hn::InterleaveUpper(d, a, c);
  const auto be0 = hn::InterleaveLower(d, b, e), be1 = hn::InterleaveUpper(d, b, e);
  hn::StoreU(hn::InterleaveLower(d, ac0, be0), d, to);
  hn::StoreU(hn::InterleaveUpper(d, ac0, be0), d, to + kStride);
  hn::StoreU(hn::InterleaveLower(d, ac1, be1), d, to + 2 * kStride);
  hn::StoreU(hn::InterleaveUpper(d, ac1, be1), d, to + 3 * kStride);
#endif
}

// One element widened. Only for edges.
template <typename T>
HWY_INLINE float widened(const T* p) {
  return hn::GetLane(load_float_part(p, 1));
}

#if HWY_TARGET <= HWY_AVX3
// Of four rows of sixteen: block b of vector c becomes element 4 b + c of each.
HWY_INLINE void transpose_blocks(__m512* r) {
  const __m512d ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(r[0], r[1]));
  const __m512d ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(r[0], r[1]));
  const __m512d ce_low = _mm512_castps_pd(_mm512_unpacklo_ps(r[2], r[3]));
  const __m512d ce_high = _mm512_castps_pd(_mm512_unpackhi_ps(r[2], r[3]));
  r[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, ce_low));
  r[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, ce_low));
  r[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, ce_high));
  r[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, ce_high));
}

// to + i * distance: block i of each of a, b, c and e.
HWY_INLINE void store_blocks(__m512 a, __m512 b, __m512 c, __m512 e, float* to, int64_t distance) {
  const __m512 ab_low = _mm512_shuffle_f32x4(a, b, 0x44), ab_high = _mm512_shuffle_f32x4(a, b, 0xEE);
  const __m512 ce_low = _mm512_shuffle_f32x4(c, e, 0x44), ce_high = _mm512_shuffle_f32x4(c, e, 0xEE);
  _mm512_storeu_ps(to, _mm512_shuffle_f32x4(ab_low, ce_low, 0x88));
  _mm512_storeu_ps(to + distance, _mm512_shuffle_f32x4(ab_low, ce_low, 0xDD));
  _mm512_storeu_ps(to + 2 * distance, _mm512_shuffle_f32x4(ab_high, ce_high, 0x88));
  _mm512_storeu_ps(to + 3 * distance, _mm512_shuffle_f32x4(ab_high, ce_high, 0xDD));
}

// to[i * kStride + j] = rows[j][i] for j < kRows, i < k, k a multiple of 16: whole lines are read and written.
template <int64_t kRows, int64_t kStride, typename T>
void turn_lines(const T* const* rows, int64_t k, float* to) {
  static_assert(kRows == 16 || (kRows == 12 && kStride == 12), "lines are written whole");
  for (int64_t i = 0; i < k; i += 16, to += 16 * kStride) {
    __m512 r[kRows];
    MAMBA_CPU_UNROLL(16)
    for (int64_t j = 0; j < kRows; ++j) {
      r[j] = load_float(rows[j] + i).raw;
    }
    MAMBA_CPU_UNROLL(4)
    for (int64_t j = 0; j < kRows; j += 4) {
      transpose_blocks(r + j);
    }
    if constexpr (kRows == 16) {
      MAMBA_CPU_UNROLL(4)
      for (int64_t c = 0; c < 4; ++c) {
        store_blocks(r[c], r[4 + c], r[8 + c], r[12 + c], to + c * kStride, 4 * kStride);
      }
    } else {
      store_blocks(r[0], r[4], r[8], r[1], to, 48);
      store_blocks(r[5], r[9], r[2], r[6], to + 16, 48);
      store_blocks(r[10], r[3], r[7], r[11], to + 32, 48);
    }
  }
}
#endif

// to[i * kStride + j] = rows[j][i] for j < count, i < k. Nothing else is written.
template <int64_t kStride, typename T>
void turn_rows(const T* const* rows, int64_t count, int64_t k, float* to) {
#if HWY_TARGET <= HWY_AVX3
  constexpr int64_t kAtOnce = std::min<int64_t>(16, kStride);
  for (; count >= kAtOnce && k % 16 == 0; rows += kAtOnce, count -= kAtOnce, to += kAtOnce) {
    turn_lines<kAtOnce, kStride>(rows, k, to);
  }
#endif
  if (count < 4) {
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t i = 0; i < k; ++i) {
        to[i * kStride + j] = widened(rows[j] + i);
      }
    }
    return;
  }
  // Few rows: a line of each after another, so that what is written is whole before it leaves the first-level cache.
  // The lines of many would drive each other out, since rows are often a large power of 2 apart.
  const int64_t step = kStride <= 16 ? 64 / static_cast<int64_t>(sizeof(T)) : k;
  for (int64_t first = 0; first < k; first += step) {
    const int64_t end = std::min(k, first + step);
    for (int64_t done = 0; done < count; done += 4) {
      const int64_t j = std::min(done, count - 4);
      int64_t i = first;
      for (; i + 4 <= end; i += 4) {
        transpose_4x4<kStride>(rows + j, i, to + i * kStride + j);
      }
      for (; i < end; ++i) {
        for (int64_t c = j; c < j + 4; ++c) {
          to[i * kStride + c] = widened(rows[c] + i);
        }
      }
    }
  }
}

// panel[k][j] = row j of `from`, element k, for `columns` rows; 0 for the other columns of the panel.
template <typename T>
void pack_panel_transposed(const T* from, int64_t stride, int64_t columns, int64_t depth, float* panel) {
  const T* rows[kPanel];
  for (int64_t j = 0; j < columns; ++j) {
    rows[j] = from + j * stride;
  }
  turn_rows<kPanel>(rows, columns, depth, panel);
  for (int64_t k = 0; k < depth && columns < kPanel; ++k) {
    std::fill(panel + k * kPanel + columns, panel + (k + 1) * kPanel, 0.0f);
  }
}

// Columns [n, n + columns) and depth [k, k + depth) of the right operand as a panel.
void pack_panel(const Right& right, int64_t n, int64_t columns, int64_t k, int64_t depth, float* panel) {
  with_type(right.matrix.type, right.matrix.data, [&](auto* data) HWY_ATTR {
    const int64_t stride = right.matrix.stride;
    if (!right.by_k) {
      pack_panel_transposed(data + n * stride + k, stride, columns, depth, panel);
      return;
    }
    for (int64_t i = 0; i < depth; ++i) {
      widen_row(data + (k + i) * stride + n, columns, panel + i * kPanel, kPanel);
    }
  });
}

// Rows [begin, end) of the left operand, widened, in blocks of kBlockRows with one k's elements side by side: row r's
// element i to packed[(r / kBlockRows * k + i) * kBlockRows + r % kBlockRows], r counted from piece_begin. `begin`
// starts a block.
HWY_INLINE void pack_left(const Rows& x, int64_t piece_begin, int64_t begin, int64_t end, int64_t k, float* packed) {
  for (int64_t row = begin; row < end; row += kBlockRows) {
    const int64_t rows = std::min<int64_t>(kBlockRows, end - row);
    const void* const* from = x.rows.data() + row;
    with_type(x.type, from[0], [&](auto* first) HWY_ATTR {
      const std::remove_pointer_t<decltype(first)>* typed[kBlockRows];
      for (int64_t r = 0; r < rows; ++r) {
        typed[r] = static_cast<decltype(first)>(from[r]);
      }
      turn_rows<kBlockRows>(typed, rows, k, packed + (row - piece_begin) * k);
    });
  }
}

// The same of an operand that lies in rows of k.
HWY_INLINE void pack_left(const Left& left, int64_t piece_begin, int64_t begin, int64_t end, int64_t k, float* packed) {
  if (!left.transposed) {
    pack_left(left.rows, piece_begin, begin, end, k, packed);
    return;
  }
  const auto block_of = [&](int64_t row) { return packed + (row - piece_begin) * k; };
  constexpr int64_t kStrip = 4 * kBlockRows;
  constexpr int64_t kRowsAhead = 16;
  HWY_ALIGN float strip[kStrip + kLanes] = {};
  for (int64_t at = begin; at < end; at += kStrip) {
    const int64_t count = std::min(kStrip, end - at);
    for (int64_t i = 0; i < k; ++i) {
      with_type(left.rows.type, left.rows.rows[static_cast<size_t>(i)], [&](auto* from) HWY_ATTR {
        if (i + kRowsAhead < k) {
          const auto* const ahead =
              static_cast<decltype(from)>(left.rows.rows[static_cast<size_t>(i + kRowsAhead)]) + at;
          for (int64_t j = 0; j < count; j += 64 / static_cast<int64_t>(sizeof(*from))) {
            __builtin_prefetch(ahead + j);
          }
        }
        widen_row(from + at, count, strip, (count + kLanes - 1) / kLanes * kLanes);
      });
      for (int64_t r = 0; r < count; r += kBlockRows) {
        std::copy_n(strip + r, kBlockRows, block_of(at + r) + i * kBlockRows);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace mamba::ops::linear_detail
HWY_AFTER_NAMESPACE();

#endif
