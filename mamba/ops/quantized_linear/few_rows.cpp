// A row of codes is multiplied without being written out as floats: a vector of codes is widened, scaled as
// dequantising would, w = scale code + bias rounded once, and multiplied with every row of x that is at hand. So each
// product is what dequantise-then-multiply has, and with many rows most of the work is theirs.
//
// Scales and biases of a range of codes are widened at once: a row has few of them, often not a vector.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/quantized_linear/few_rows.cpp"
#include "mamba/ops/cpu/targets.h"
//
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include <algorithm>

#include "mamba/base/threads.h"
#include "mamba/ops/quantized_linear/formats-inl.h"
#include "mamba/ops/quantized_linear/kernel.h"

#ifndef MAMBA_OPS_QUANTIZED_FEW_ROWS_CONSTANTS_
#define MAMBA_OPS_QUANTIZED_FEW_ROWS_CONSTANTS_
namespace mamba::ops::quantized_detail {
constexpr int64_t kWidestVector = 16;  // floats
// Codes of a range at most: they stay in the second-level cache for all rows, and the begin of a range, which nothing
// fetched ahead, is a small part of it.
constexpr int64_t kRangeCodes = 256 * 1024;
constexpr int64_t kRangeColumns = 240;  // at most; whole steps
constexpr int64_t kSegment = 8192;      // of k at a time, so that the scales of a range fit the stack; whole groups
constexpr int64_t kRangeGroups = kRangeCodes / 32;
static_assert(kFewColumnStep * kSegment <= kRangeCodes);
// Rows of codes are short, and several are read side by side: processors do not see what comes next. It is fetched at
// least so many bytes ahead, and where a block of columns is longer than the most, along its rows.
constexpr int64_t kMinPrefetchBytes = 3072;
constexpr int64_t kMaxPrefetchBytes = 16 * 1024;
constexpr int64_t kLine = 64;

constexpr int64_t divide_up(int64_t value, int64_t by) {
  return (value + by - 1) / by;
}

inline int64_t most_columns(int64_t k) {
  return std::clamp(kRangeCodes / std::max<int64_t>(1, k), kFewColumnStep, kRangeColumns) / kFewColumnStep *
         kFewColumnStep;
}

// Columns of a range, such that each thread has as many ranges as the others.
inline int64_t range_columns(int64_t n, int64_t k) {
  const int64_t most = most_columns(k);
  const int64_t threads = num_threads();
  const int64_t ranges = threads * divide_up(n, most * threads);
  return std::min(divide_up(divide_up(n, ranges), kFewColumnStep) * kFewColumnStep, most);
}
}  // namespace mamba::ops::quantized_detail
#endif

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::quantized_detail {
namespace HWY_NAMESPACE {

// What comes a block of columns later, as bytes [at, at + count) of each of this block's rows are read. Rows of a block
// lie side by side, so it is fetched in the order of memory, as a plain read would; row beside row was slower.
template <int kCols>
HWY_INLINE void prefetch(const Codes& w, int64_t at, int64_t count) {
  const int64_t block = kCols * w.row_bytes;
  if (block <= kMaxPrefetchBytes) {
    const uint8_t* from = w.codes + std::max(block, kMinPrefetchBytes) + kCols * at;
    for (int64_t line = 0; line < kCols * count; line += kLine) {
      hwy::Prefetch(from + line);
    }
    return;
  }
  for (int64_t line = 0; line < count; line += kLine) {
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      hwy::Prefetch(w.codes + j * w.row_bytes + at + line + kMinPrefetchBytes);
    }
  }
}

// out[i * kRangeColumns + j] (+)= the product of row i of x and row j of the codes over a segment.
template <int kRows, int kCols, typename Format>
HWY_NOINLINE void dot_block(const Left& left, const Codes& w, bool add, float* HWY_RESTRICT out) {
  Sums<kRows, kCols> sums;
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      sums.v[i][j] = hn::Zero(DF());
    }
  }
  int64_t at = 0;
  for (int64_t g = 0; g < w.groups; ++g, at += w.group_size) {
    prefetch<kCols>(w, at * Format::kBits / 8, w.group_size * Format::kBits / 8);
    Format::add_group(left, w, g, at, sums);
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      const float sum = hn::GetLane(hn::SumOfLanes(DF(), sums.v[i][j]));
      float& to = out[i * kRangeColumns + j];
      to = add ? to + sum : sum;
    }
  }
}

template <int kRows, typename Format>
void dot_columns(const Left& left, Codes w, int64_t columns, bool add, float* out) {
  constexpr int kCols = Format::kColumnsOf[kRows - 1];
  int64_t j = 0;
  const auto skip = [&](int64_t count) {
    w.codes += count * w.row_bytes;
    w.scales += count * w.groups;
    w.biases += count * w.groups;
    j += count;
  };
  while (j + kCols <= columns) {
    dot_block<kRows, kCols, Format>(left, w, add, out + j);
    skip(kCols);
  }
  while (j < columns) {
    dot_block<kRows, 1, Format>(left, w, add, out + j);
    skip(1);
  }
}

template <typename Format>
void dot_rows(int64_t rows, const Left& left, const Codes& w, int64_t columns, bool add, float* out) {
  switch (rows) {
    case 1:
      return dot_columns<1, Format>(left, w, columns, add, out);
    case 2:
      return dot_columns<2, Format>(left, w, columns, add, out);
    case 3:
      return dot_columns<3, Format>(left, w, columns, add, out);
    case 4:
      return dot_columns<4, Format>(left, w, columns, add, out);
    default:
      break;
  }
  if constexpr (kMaxRows == 8) {
    switch (rows) {
      case 5:
        return dot_columns<5, Format>(left, w, columns, add, out);
      case 6:
        return dot_columns<6, Format>(left, w, columns, add, out);
      case 7:
        return dot_columns<7, Format>(left, w, columns, add, out);
      default:
        return dot_columns<8, Format>(left, w, columns, add, out);
    }
  }
}

// Groups [group, group + count) of columns [begin, end), as floats one column after another.
void widen_scales(const Quantized& weight, const void* from, int64_t begin, int64_t end, int64_t group, int64_t count,
                  float* to) {
  simd::with_type(weight.type, from, [&](auto* typed) HWY_ATTR {
    const bool whole = count == weight.groups();
    const int64_t length = whole ? (end - begin) * count : count;
    for (int64_t column = begin; column < end; column += whole ? end - begin : 1) {
      const auto* source = typed + column * weight.groups() + group;
      float* target = to + (column - begin) * count;
      int64_t i = 0;
      for (; i + kLanes <= length; i += kLanes) {
        hn::StoreU(simd::load_float(source + i), DF(), target + i);
      }
      if (i < length) {
        // Lanes beyond the last are zeros, in place of which the next column's scales come.
        hn::StoreU(load_first(source + i, length - i), DF(), target + i);
      }
    }
  });
}

// Columns [begin, end) of all rows.
void dot_range(const Quantized& weight, int64_t rows, const float* x, int64_t x_stride, const float* bias,
               int64_t begin, int64_t end, const OutRows& y) {
  HWY_ALIGN float out[kMaxRows * kRangeColumns];
  HWY_ALIGN float scales[kRangeGroups + kWidestVector];
  HWY_ALIGN float biases[kRangeGroups + kWidestVector];
  int64_t widened = -1;
  int64_t count = 0;
  for (int64_t row = 0; row < rows; row += count) {
    const int64_t blocks = divide_up(rows - row, kMaxRows);
    count = divide_up(rows - row, blocks);
    for (int64_t at = 0; at < weight.k; at += kSegment) {
      const int64_t group = at / weight.group_size;
      const int64_t groups = std::min(kSegment, weight.k - at) / weight.group_size;
      if (widened != at) {
        widen_scales(weight, weight.scales, begin, end, group, groups, scales);
        widen_scales(weight, weight.biases, begin, end, group, groups, biases);
        widened = at;
      }
      const Left left{.x = x + row * x_stride + at, .x_stride = x_stride};
      const Codes codes{.codes = weight.codes + begin * weight.row_bytes() + at * weight.bits / 8,
                        .row_bytes = weight.row_bytes(),
                        .scales = scales,
                        .biases = biases,
                        .groups = groups,
                        .group_size = weight.group_size};
      with_format(weight, [&](auto format)
                              HWY_ATTR { dot_rows<decltype(format)>(count, left, codes, end - begin, at > 0, out); });
    }
    for (int64_t i = 0; i < count; ++i) {
      simd::with_type(y.type, y.rows[static_cast<size_t>(row + i)], [&](auto* to) HWY_ATTR {
        using Out = std::remove_const_t<std::remove_pointer_t<decltype(to)>>;
        simd::narrow_row(out + i * kRangeColumns, bias == nullptr ? nullptr : bias + begin, end - begin,
                         const_cast<Out*>(to) + begin);
      });
    }
  }
}

void pack_few_impl(const Rows& x, const Quantized& weight, int64_t begin, int64_t end, float* packed) {
  const int64_t k = weight.k;
  const int64_t x_stride = linear_detail::packed_stride(k);
  for (int64_t row = begin; row < end; ++row) {
    float* to = packed + row * x_stride;
    simd::with_type(x.type, x.rows[static_cast<size_t>(row)],
                    [&](auto* from) HWY_ATTR { simd::widen_row(from, k, to, k); });
    with_format(weight, [&](auto format) HWY_ATTR { spread_row(format, to, k); });
  }
}

void few_columns_impl(const Quantized& weight, int64_t rows, const float* packed, const float* bias, int64_t begin,
                      int64_t end, const OutRows& y) {
  const int64_t step = most_columns(weight.k);
  for (int64_t first = begin; first < end; first += step) {
    dot_range(weight, rows, packed, linear_detail::packed_stride(weight.k), bias, first, std::min(end, first + step),
              y);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace mamba::ops::quantized_detail
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops::quantized_detail {

HWY_EXPORT(pack_few_impl);
HWY_EXPORT(few_columns_impl);

int64_t few_rows_workspace(int64_t rows, int64_t k) {
  return rows * linear_detail::packed_stride(k);
}

void pack_few(const Rows& x, const Quantized& weight, int64_t begin, int64_t end, float* packed) {
  HWY_DYNAMIC_DISPATCH(pack_few_impl)(x, weight, begin, end, packed);
}

void few_columns(const Quantized& weight, int64_t rows, Float, const float* packed, const float* bias, int64_t begin,
                 int64_t end, const OutRows& y) {
  HWY_DYNAMIC_DISPATCH(few_columns_impl)(weight, rows, packed, bias, begin, end, y);
}

void few_rows(const Rows& x, const Quantized& weight, const float* bias, const OutRows& y, float* workspace) {
  parallel_for(x.count(), std::max<int64_t>(1, 8192 / std::max<int64_t>(weight.k, 1)),
               [&](int64_t begin, int64_t end) { pack_few(x, weight, begin, end, workspace); });
  parallel_for(weight.n, range_columns(weight.n, weight.k), [&](int64_t begin, int64_t end) {
    few_columns(weight, x.count(), x.type, workspace, bias, begin, end, y);
  });
}

}  // namespace mamba::ops::quantized_detail
#endif
