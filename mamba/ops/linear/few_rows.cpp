// Both x and the weights are contiguous along k, so every result is a dot product: one vector of partial sums for each
// (row, column) pair, added up across lanes at the end. A block of rows x columns shares its loads; the blocks differ
// in shape with the number of rows, but the order in which one result is summed is always that of its single vector.
// The weights are read in place. x is copied first, widened to float32 and padded with zeros to whole vectors.
//
// bfloat16 weights are widened in pairs: a 32-bit lane holds elements 2i and 2i+1, and a shift gives the first, a mask
// the second, in half the instructions of two widening loads. x is stored in the same order.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/linear/few_rows.cpp"
#include "mamba/ops/cpu/targets.h"
//
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include "mamba/base/threads.h"
#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/cpu/lanes-inl.h"
#include "mamba/ops/linear/few_rows.h"
#include "mamba/ops/linear/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::linear_detail {
namespace HWY_NAMESPACE {

// Columns that go with 1 to kMaxRows rows. Sixteen registers hold at most 12 sums with the operands beside them (and
// what bfloat16 needs to come apart), thirty-two hold 24. With AVX-512 one sum is fast enough to take one or two rows a
// column after another, as they lie: the processor reads a single stream ahead by itself, further than prefetches can.
#if HWY_TARGET <= HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr int kMaxRows = 8;
constexpr int kFew = HWY_TARGET <= HWY_AVX3 ? 1 : 8;
constexpr int kColumnsOf[kMaxRows] = {kFew, kFew, 8, 6, 4, 4, 3, 3};
constexpr int kColumnsOfPairs[kMaxRows] = {8, 8, 6, 6, 4, 4, 3, 3};
#else
constexpr int kMaxRows = 6;
constexpr int kColumnsOf[kMaxRows] = {8, 4, 4, 3, 2, 2};
constexpr int kColumnsOfPairs[kMaxRows] = {8, 4, 3, 2, 2, 2};
#endif
static_assert(kFewColumnStep == 24, "a multiple of each");

// For a line that is needed within microseconds. Rows are short: a processor that follows streams by itself has hardly
// seen one when it ends, and memory is read a third slower. An address behind the matrix does no harm.
HWY_INLINE void prefetch(const void* p) {
  __builtin_prefetch(p, 0, 2);
}

template <typename T>
constexpr bool kPaired = std::is_same_v<T, hwy::bfloat16_t>&& HWY_TARGET != HWY_SCALAR;
template <typename T>
constexpr int64_t kUnit = kPaired<T> ? 2 * kLanes : kLanes;

template <int kRows, int kCols>
struct Sums {
  VF v[kRows][kCols];
};

// One vector along k: sums[i][j] += x_i w_j, with the operand of the shorter side kept in registers.
template <int kRows, int kCols, typename LoadX, typename LoadW>
HWY_INLINE void multiply_add(Sums<kRows, kCols>& sums, const LoadX& load_x, const LoadW& load_w) {
  if constexpr (kRows <= kCols) {
    VF x[kRows];
    MAMBA_CPU_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
      x[i] = load_x(i);
    }
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      const VF w = load_w(j);
      MAMBA_CPU_UNROLL(8)
      for (int i = 0; i < kRows; ++i) {
        sums.v[i][j] = hn::MulAdd(x[i], w, sums.v[i][j]);
      }
    }
  } else {
    VF w[kCols];
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      w[j] = load_w(j);
    }
    MAMBA_CPU_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
      const VF x = load_x(i);
      MAMBA_CPU_UNROLL(8)
      for (int j = 0; j < kCols; ++j) {
        sums.v[i][j] = hn::MulAdd(x, w[j], sums.v[i][j]);
      }
    }
  }
}

template <int kRows, int kCols, typename T, typename LoadW>
HWY_INLINE void multiply_add_unit(Sums<kRows, kCols>& sums, const float* x, int64_t x_stride, const LoadW& load_w) {
  if constexpr (kPaired<T>) {
    const hn::RebindToUnsigned<DF> du;
    multiply_add(
        sums, [&](int i) HWY_ATTR { return hn::Load(DF(), x + i * x_stride); },
        [&](int j) HWY_ATTR { return hn::BitCast(DF(), hn::ShiftLeft<16>(load_w(j))); });
    multiply_add(
        sums, [&](int i) HWY_ATTR { return hn::Load(DF(), x + i * x_stride + kLanes); },
        [&](int j) HWY_ATTR { return hn::BitCast(DF(), hn::And(load_w(j), hn::Set(du, 0xFFFF0000u))); });
  } else {
    multiply_add(
        sums, [&](int i) HWY_ATTR { return hn::Load(DF(), x + i * x_stride); }, load_w);
  }
}

// The vector that multiply_add_unit expects: as stored in pairs, or widened.
HWY_INLINE auto load_weights(const hwy::bfloat16_t* w) {
#if HWY_TARGET == HWY_SCALAR
  return load_float(w);
#else
  const hn::RebindToUnsigned<DF> du;
  const hn::Repartition<uint16_t, DF> du16;
  return hn::BitCast(du, hn::LoadU(du16, reinterpret_cast<const uint16_t*>(w)));
#endif
}

template <typename T>
HWY_INLINE VF load_weights(const T* w) {
  return load_float(w);
}

// out[i * out_stride + j] for a block of kRows rows of x and kCols rows of the weights.
template <int kRows, int kCols, typename T>
HWY_NOINLINE void dot_block(const float* HWY_RESTRICT x, int64_t x_stride, const T* HWY_RESTRICT w, int64_t w_stride,
                            int64_t k, float* HWY_RESTRICT out, int64_t out_stride) {
  Sums<kRows, kCols> sums;
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      sums.v[i][j] = hn::Zero(DF());
    }
  }
  // What comes after these columns, in the order of memory, as a plain read would go: row beside row is slower.
  const T* const next = w + kCols * w_stride;
  const int64_t whole = k / kUnit<T> * kUnit<T>;
  for (int64_t at = 0; at < whole; at += kUnit<T>) {
    multiply_add_unit<kRows, kCols, T>(sums, x + at, x_stride, [&](int j) HWY_ATTR {
      prefetch(next + at * kCols + j * kUnit<T>);
      return load_weights(w + j * w_stride + at);
    });
  }
  if (whole < k) {
    HWY_ALIGN T part[kCols][kUnit<T>] = {};
    for (int j = 0; j < kCols; ++j) {
      std::memcpy(part[j], w + j * w_stride + whole, static_cast<size_t>(k - whole) * sizeof(T));
    }
    multiply_add_unit<kRows, kCols, T>(sums, x + whole, x_stride,
                                       [&](int j) HWY_ATTR { return load_weights(part[j]); });
  }
  constexpr int kSums = kRows * kCols;
  const auto sum = [&](int i) HWY_ATTR { return i < kSums ? sums.v[i / kCols][i % kCols] : hn::Zero(DF()); };
  HWY_ALIGN float added[kSums + 3];
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kSums; i += 4) {
    ops::HWY_NAMESPACE::sum_lanes(DF(), sum(i), sum(i + 1), sum(i + 2), sum(i + 3), added + i);
  }
  for (int i = 0; i < kSums; ++i) {
    out[i / kCols * out_stride + i % kCols] = added[i];
  }
}

template <int kRows, typename T>
void dot_columns(const float* x, int64_t x_stride, const T* w, int64_t w_stride, int64_t k, int64_t columns, float* out,
                 int64_t out_stride) {
  constexpr int kCols = kPaired<T> ? kColumnsOfPairs[kRows - 1] : kColumnsOf[kRows - 1];
  int64_t j = 0;
  for (; j + kCols <= columns; j += kCols) {
    dot_block<kRows, kCols>(x, x_stride, w + j * w_stride, w_stride, k, out + j, out_stride);
  }
  // At most kCols - 1 columns of the last range: not worth a block of their own for each number of rows.
  for (; j < columns; ++j) {
    for (int i = 0; i < kRows; ++i) {
      dot_block<1, 1>(x + i * x_stride, x_stride, w + j * w_stride, w_stride, k, out + i * out_stride + j, out_stride);
    }
  }
}

template <typename T>
void dot_range(const float* x, int64_t rows, int64_t x_stride, const T* w, int64_t w_stride, int64_t k,
               const float* bias, int64_t begin, int64_t end, const OutRows& y) {
  HWY_ALIGN float out[kMaxRows * kMaxFewColumns];
  w += begin * w_stride;
  constexpr decltype(&dot_columns<1, T>) kBlocks[] = {
    dot_columns<1, T>,
    dot_columns<2, T>,
    dot_columns<3, T>,
    dot_columns<4, T>,
    dot_columns<5, T>,
    dot_columns<6, T>,
#if HWY_TARGET <= HWY_AVX3 || HWY_TARGET == HWY_NEON
    dot_columns<7, T>,
    dot_columns<8, T>,
#endif
  };
  int64_t count = 0;
  for (int64_t row = 0; row < rows; row += count) {
    const int64_t blocks = (rows - row + kMaxRows - 1) / kMaxRows;
    count = (rows - row + blocks - 1) / blocks;
    const auto block = kBlocks[count - 1];
    block(x + row * x_stride, x_stride, w, w_stride, k, end - begin, out, kMaxFewColumns);
    for (int64_t i = 0; i < count; ++i) {
      with_type(y.type, y.rows[static_cast<size_t>(row + i)], [&](auto* to) HWY_ATTR {
        using Out = std::remove_const_t<std::remove_pointer_t<decltype(to)>>;
        narrow_row(out + i * kMaxFewColumns, bias == nullptr ? nullptr : bias + begin, end - begin,
                   const_cast<Out*>(to) + begin);
      });
    }
  }
}

// Elements 2i before elements 2i + 1 within each unit, the order in which paired weights come apart.
void pair_row(float* row, int64_t padded) {
#if HWY_TARGET != HWY_SCALAR
  const DF d;
  for (int64_t i = 0; i < padded; i += 2 * kLanes) {
    const VF low = hn::Load(d, row + i);
    const VF high = hn::Load(d, row + i + kLanes);
    hn::Store(hn::ConcatEven(d, high, low), d, row + i);
    hn::Store(hn::ConcatOdd(d, high, low), d, row + i + kLanes);
  }
#else
  (void)row, (void)padded;
#endif
}

void pack_few_impl(const Rows& x, Float weight_type, int64_t k, int64_t begin, int64_t end, float* packed) {
  const int64_t x_stride = packed_stride(k);
  const int64_t padded = (k + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes);
  const bool paired = weight_type == Float::kBfloat16 && kPaired<hwy::bfloat16_t>;
  for (int64_t row = begin; row < end; ++row) {
    float* to = packed + row * x_stride;
    with_type(x.type, x.rows[static_cast<size_t>(row)], [&](auto* from) HWY_ATTR { widen_row(from, k, to, padded); });
    if (paired) {
      pair_row(to, padded);
    }
  }
}

void few_columns_impl(const float* packed, int64_t rows, const Matrix& weight, const float* bias, int64_t k,
                      int64_t begin, int64_t end, const OutRows& y) {
  with_type(weight.type, weight.data, [&](auto* w) HWY_ATTR {
    dot_range(packed, rows, packed_stride(k), w, weight.stride, k, bias, begin, end, y);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace mamba::ops::linear_detail
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops::linear_detail {

HWY_EXPORT(pack_few_impl);
HWY_EXPORT(few_columns_impl);

namespace {

bool multiplies_pairs(Float x, Float weight) {
  return x == Float::kBfloat16 && weight == Float::kBfloat16 && cpu::has_bf16_products();
}

// A range's weights stay in the second-level cache for all rows, and are enough work to hand out.
int64_t range_columns(Float weight_type, int64_t k) {
  constexpr int64_t kRangeBytes = 128 * 1024;
  const int64_t column_bytes = std::max<int64_t>(1, k * size_of(weight_type));
  return std::clamp<int64_t>(kRangeBytes / column_bytes / kFewColumnStep, 1, kMaxFewColumns / kFewColumnStep) *
         kFewColumnStep;
}

}  // namespace

void pack_few(const Rows& x, Float weight_type, int64_t k, int64_t begin, int64_t end, float* packed) {
  if (multiplies_pairs(x.type, weight_type)) {
    return bf16::pack(x, k, begin, end, packed);
  }
  HWY_DYNAMIC_DISPATCH(pack_few_impl)(x, weight_type, k, begin, end, packed);
}

void few_columns(const float* packed, int64_t rows, Float x_type, const Matrix& weight, const float* bias, int64_t k,
                 int64_t begin, int64_t end, const OutRows& y) {
  const bool pairs = multiplies_pairs(x_type, weight.type);
  const int64_t step = range_columns(weight.type, k);
  for (int64_t first = begin; first < end; first += step) {
    const int64_t last = std::min(end, first + step);
    if (pairs) {
      bf16::columns(packed, rows, weight, bias, k, first, last, y);
    } else {
      HWY_DYNAMIC_DISPATCH(few_columns_impl)(packed, rows, weight, bias, k, first, last, y);
    }
  }
}

void few_rows(const Rows& x, const Matrix& weight, const float* bias, int64_t n, int64_t k, const OutRows& y,
              float* workspace) {
  parallel_for(x.count(), std::max<int64_t>(1, 16384 / std::max<int64_t>(k, 1)),
               [&](int64_t begin, int64_t end) { pack_few(x, weight.type, k, begin, end, workspace); });
  parallel_for(n, range_columns(weight.type, k), [&](int64_t begin, int64_t end) {
    few_columns(workspace, x.count(), x.type, weight, bias, k, begin, end, y);
  });
}

}  // namespace mamba::ops::linear_detail
#endif
