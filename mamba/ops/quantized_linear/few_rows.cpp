// A row of codes is multiplied without being written out as floats. With c = code - middle, whose products with x are
// summed in float32 as any others,
//
//   sum over k of W[k] x[k] = sum over groups g of  scale[g] * (sum of c[k] x[k])  +  (bias[g] + middle scale[g]) *
//   X[g]
//
// where X[g], the sum of x over the group, is computed once for all rows of W. Codes are centred because they are all
// positive: without it the two terms would be large and cancel.
//
// Codes of 8 bits are widened in order. Codes of 4 bits come 8 to a 32-bit lane, and a shift brings number i of every
// lane down; so x is laid out for it: for a block of 8 vectors, vector i holds elements 8 lane + i. With AVX-512 the
// shifted lane is itself the index into a table of the 16 values, since a permutation looks at four bits only.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/quantized_linear/few_rows.cpp"
#include "mamba/ops/cpu/targets.h"
//
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include <algorithm>
#include <bit>

#include "mamba/base/threads.h"
#include "mamba/ops/quantized_linear/kernel.h"
#include "mamba/ops/quantized_linear/unpack-inl.h"

#ifndef MAMBA_OPS_QUANTIZED_FEW_ROWS_CONSTANTS_
#define MAMBA_OPS_QUANTIZED_FEW_ROWS_CONSTANTS_
namespace mamba::ops::quantized_detail {
constexpr int64_t kNibbles = 8;        // to a 32-bit lane
constexpr int64_t kWidestVector = 16;  // floats
constexpr int64_t kSegment = 8192;     // of k at a time, so that its scales fit the stack; whole groups and blocks
constexpr int64_t kMaxSegmentGroups = kSegment / 32;
constexpr int64_t kRangeColumns = 120;  // columns of a range at most
// Rows of codes are short, and several are read side by side: processors do not see what comes next. Half the time of
// a decode step went into waiting for it.
constexpr int64_t kPrefetchBytes = 4096;
constexpr int64_t kLine = 64;

constexpr int64_t round_up(int64_t value, int64_t step) {
  return (value + step - 1) / step * step;
}
constexpr int64_t x_stride_of(int64_t k) {
  return linear_detail::packed_stride(round_up(k, kNibbles * kWidestVector));
}
constexpr int64_t sums_stride_of(int64_t groups) {
  return round_up(groups, kWidestVector) + kWidestVector;
}
}  // namespace mamba::ops::quantized_detail
#endif

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::quantized_detail {
namespace HWY_NAMESPACE {

// Rows of x that share the codes once they are unpacked. Each (row, column) pair takes two registers.
#if HWY_TARGET <= HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr int kMaxRows = 8;
constexpr int kColumnsOf[kMaxRows] = {4, 4, 2, 2, 1, 1, 1, 1};
#else
constexpr int kMaxRows = 4;
constexpr int kColumnsOf[kMaxRows] = {4, 2, 1, 1};
#endif

// Rows of x as the kernel reads them, at the begin of a segment.
struct Left {
  const float* x;
  int64_t x_stride;
  const float* sums;  // of each group
  int64_t sums_stride;
};

// Rows of codes from one column on, at the begin of a segment.
template <typename T>
struct Codes {
  const uint8_t* codes;
  int64_t row_bytes;
  const T* scales;
  const T* biases;
  int64_t groups_stride;
  int64_t group_size;  // 1 << group_shift: dividing by it would take longer than a short row
  int group_shift;
};

template <int kRows, int kCols>
struct Sums {
  VF v[kRows][kCols];
};

template <int kRows, int kCols>
HWY_INLINE void clear(Sums<kRows, kCols>& sums) {
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      sums.v[i][j] = hn::Zero(DF());
    }
  }
}

template <int kRows, int kCols>
HWY_INLINE void multiply_add(const Left& left, int64_t at, const VF (&w)[kCols], Sums<kRows, kCols>& sums) {
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    const VF x = hn::Load(DF(), left.x + i * left.x_stride + at);
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      sums.v[i][j] = hn::MulAdd(x, w[j], sums.v[i][j]);
    }
  }
}

// total += scale * part
template <int kRows, int kCols>
HWY_INLINE void add_scaled(const Sums<kRows, kCols>& part, const VF (&scale)[kCols], Sums<kRows, kCols>& total) {
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      total.v[i][j] = hn::MulAdd(part.v[i][j], scale[j], total.v[i][j]);
    }
  }
}

// What lies kPrefetchBytes behind bytes [at, at + count) of each row of codes.
template <int kCols, typename T>
HWY_INLINE void prefetch(const Codes<T>& w, int64_t at, int64_t count) {
  for (int64_t line = 0; line < count; line += kLine) {
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      hwy::Prefetch(w.codes + j * w.row_bytes + at + line + kPrefetchBytes);
    }
  }
}

template <int kRows, int kCols, typename T>
HWY_INLINE void add_bytes(const Left& left, const Codes<T>& w, const float (*scales)[kMaxSegmentGroups + kWidestVector],
                          int64_t depth, Sums<kRows, kCols>& total) {
  for (int64_t begin = 0, g = 0; begin < depth; begin += w.group_size, ++g) {
    Sums<kRows, kCols> part;
    clear(part);
    prefetch<kCols>(w, begin, w.group_size);
    for (int64_t at = begin; at < begin + w.group_size; at += kLanes) {
      VF code[kCols];
      MAMBA_CPU_UNROLL(8)
      for (int j = 0; j < kCols; ++j) {
        code[j] = centred(load_bytes(w.codes + j * w.row_bytes + at), 128.0f);
      }
      multiply_add(left, at, code, part);
    }
    VF scale[kCols];
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      scale[j] = hn::Set(DF(), scales[j][g]);
    }
    add_scaled(part, scale, total);
  }
}

// The centred value of nibble kIndex of every lane.
template <int kIndex>
HWY_INLINE VF nibble(VU lanes, VF table) {
#if HWY_TARGET <= HWY_AVX3
  return VF{_mm512_permutexvar_ps(hn::ShiftRight<4 * kIndex>(lanes).raw, table.raw)};
#else
  (void)table;
  return centred(hn::And(hn::ShiftRight<4 * kIndex>(lanes), hn::Set(DU(), 15u)), 8.0f);
#endif
}

template <int kIndex, int kRows, int kCols>
HWY_INLINE void add_nibbles_from(const Left& left, int64_t at, const VU (&lanes)[kCols], VF table,
                                 Sums<kRows, kCols>& part) {
  if constexpr (kIndex < kNibbles) {
    VF code[kCols];
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      code[j] = nibble<kIndex>(lanes[j], table);
    }
    multiply_add(left, at + kIndex * kLanes, code, part);
    add_nibbles_from<kIndex + 1>(left, at, lanes, table, part);
  }
}

template <int kRows, int kCols, typename T>
HWY_INLINE void add_nibbles(const Left& left, const Codes<T>& w,
                            const float (*scales)[kMaxSegmentGroups + kWidestVector], int64_t depth,
                            Sums<kRows, kCols>& total) {
  constexpr int64_t kBlock = kNibbles * kLanes;
#if HWY_TARGET <= HWY_AVX3
  const VF table = hn::Sub(hn::Iota(DF(), 0.0f), hn::Set(DF(), 8.0f));
#else
  const VF table = hn::Zero(DF());
#endif
  // A block holds several groups where the vector is wide: then each lane takes its group's scale.
  const int group_shift = w.group_shift;
  const int64_t groups_per_block = std::max<int64_t>(1, kBlock >> group_shift);
#if HWY_TARGET == HWY_SCALAR
  const auto group_of_lane = 0;
#else
  HWY_ALIGN int32_t group_index[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    group_index[lane] = static_cast<int32_t>((lane * kNibbles >> group_shift) & (groups_per_block - 1));
  }
  const auto group_of_lane = hn::SetTableIndices(DF(), group_index);
#endif
  for (int64_t at = 0; at < depth; at += kBlock) {
    const int64_t words = std::min(kLanes, (depth - at) / kNibbles);
    VU lanes[kCols];
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      const auto* from = reinterpret_cast<const uint32_t*>(w.codes + j * w.row_bytes + at / 2);
      lanes[j] = words == kLanes ? hn::LoadU(DU(), from)
                                 : hn::MaskedLoad(hn::FirstN(DU(), static_cast<size_t>(words)), DU(), from);
    }
    Sums<kRows, kCols> part;
    clear(part);
    prefetch<kCols>(w, at / 2, kBlock / 2);
    add_nibbles_from<0>(left, at, lanes, table, part);
    VF scale[kCols];
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      const float* from = scales[j] + (at >> group_shift);
      if (groups_per_block == 1) {
        scale[j] = hn::Set(DF(), *from);
      } else {
#if HWY_TARGET == HWY_SCALAR
        scale[j] = hn::Set(DF(), from[group_of_lane]);
#else
        scale[j] = hn::TableLookupLanes(hn::LoadU(DF(), from), group_of_lane);
#endif
      }
    }
    add_scaled(part, scale, total);
  }
}

// out[i * out_stride + j] (+)= the product of row i of x and row j of the codes over `depth` of k.
template <int kRows, int kCols, int kBits, typename T>
HWY_NOINLINE void dot_block(const Left& left, const Codes<T>& w, int64_t depth, bool add, float* HWY_RESTRICT out,
                            int64_t out_stride) {
  constexpr float kMiddle = kBits == 8 ? 128.0f : 8.0f;
  HWY_ALIGN float scales[kCols][kMaxSegmentGroups + kWidestVector];
  const int64_t groups = depth >> w.group_shift;
  Sums<kRows, kCols> total;
  clear(total);
  MAMBA_CPU_UNROLL(8)
  for (int j = 0; j < kCols; ++j) {
    int64_t g = 0;
    for (; g < groups; g += kLanes) {
      const int64_t count = std::min(kLanes, groups - g);
      const VF scale = load_first(w.scales + j * w.groups_stride + g, count);
      const VF bias = load_first(w.biases + j * w.groups_stride + g, count);
      hn::StoreU(scale, DF(), scales[j] + g);
      const VF shift = hn::MulAdd(scale, hn::Set(DF(), kMiddle), bias);
      MAMBA_CPU_UNROLL(8)
      for (int i = 0; i < kRows; ++i) {
        // Beyond the last group `shift` is 0, and x's sums may be the next segment's.
        total.v[i][j] = hn::MulAdd(shift, hn::LoadU(DF(), left.sums + i * left.sums_stride + g), total.v[i][j]);
      }
    }
    // Looked up, though not used, by lanes beyond the last group.
    hn::StoreU(hn::Zero(DF()), DF(), scales[j] + g);
  }
  if constexpr (kBits == 8) {
    add_bytes(left, w, scales, depth, total);
  } else {
    add_nibbles(left, w, scales, depth, total);
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    MAMBA_CPU_UNROLL(8)
    for (int j = 0; j < kCols; ++j) {
      const float sum = hn::GetLane(hn::SumOfLanes(DF(), total.v[i][j]));
      float& to = out[i * out_stride + j];
      to = add ? to + sum : sum;
    }
  }
}

template <int kRows, int kBits, typename T>
void dot_columns(const Left& left, Codes<T> w, int64_t columns, int64_t depth, bool add, float* out,
                 int64_t out_stride) {
  constexpr int kCols = kColumnsOf[kRows - 1];
  int64_t j = 0;
  const auto skip = [&](int64_t count) {
    w.codes += count * w.row_bytes;
    w.scales += count * w.groups_stride;
    w.biases += count * w.groups_stride;
  };
  for (; j + kCols <= columns; j += kCols) {
    dot_block<kRows, kCols, kBits>(left, w, depth, add, out + j, out_stride);
    skip(kCols);
  }
  for (; j < columns; ++j) {
    dot_block<kRows, 1, kBits>(left, w, depth, add, out + j, out_stride);
    skip(1);
  }
}

template <int kBits, typename T>
void dot_rows(int64_t rows, const Left& left, const Codes<T>& w, int64_t columns, int64_t depth, bool add, float* out,
              int64_t out_stride) {
  switch (rows) {
    case 1:
      return dot_columns<1, kBits>(left, w, columns, depth, add, out, out_stride);
    case 2:
      return dot_columns<2, kBits>(left, w, columns, depth, add, out, out_stride);
    case 3:
      return dot_columns<3, kBits>(left, w, columns, depth, add, out, out_stride);
    case 4:
      return dot_columns<4, kBits>(left, w, columns, depth, add, out, out_stride);
    default:
      break;
  }
  if constexpr (kMaxRows == 8) {
    switch (rows) {
      case 5:
        return dot_columns<5, kBits>(left, w, columns, depth, add, out, out_stride);
      case 6:
        return dot_columns<6, kBits>(left, w, columns, depth, add, out, out_stride);
      case 7:
        return dot_columns<7, kBits>(left, w, columns, depth, add, out, out_stride);
      default:
        return dot_columns<8, kBits>(left, w, columns, depth, add, out, out_stride);
    }
  }
}

// Columns [begin, end) of all rows.
template <typename T>
void dot_range(const Quantized& weight, const T* scales, const T* biases, int64_t rows, const float* x,
               int64_t x_stride, const float* sums, int64_t sums_stride, const float* bias, int64_t begin, int64_t end,
               const OutRows& y) {
  HWY_ALIGN float out[kMaxRows * kRangeColumns];
  const int64_t groups = weight.groups();
  int64_t count = 0;
  for (int64_t row = 0; row < rows; row += count) {
    const int64_t blocks = (rows - row + kMaxRows - 1) / kMaxRows;
    count = (rows - row + blocks - 1) / blocks;
    for (int64_t at = 0; at < weight.k; at += kSegment) {
      const int64_t depth = std::min(kSegment, weight.k - at);
      const int64_t group = at / weight.group_size;
      const Left left{.x = x + row * x_stride + at,
                      .x_stride = x_stride,
                      .sums = sums + row * sums_stride + group,
                      .sums_stride = sums_stride};
      const Codes<T> codes{.codes = weight.codes + begin * weight.row_bytes() + at * weight.bits / 8,
                           .row_bytes = weight.row_bytes(),
                           .scales = scales + begin * groups + group,
                           .biases = biases + begin * groups + group,
                           .groups_stride = groups,
                           .group_size = weight.group_size,
                           .group_shift = std::countr_zero(static_cast<uint64_t>(weight.group_size))};
      if (weight.bits == 8) {
        dot_rows<8>(count, left, codes, end - begin, depth, at > 0, out, kRangeColumns);
      } else {
        dot_rows<4>(count, left, codes, end - begin, depth, at > 0, out, kRangeColumns);
      }
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

// Within each block of kNibbles vectors, vector i becomes elements kNibbles lane + i.
void spread_row(float* row, int64_t padded) {
  HWY_ALIGN float block[kNibbles * kLanes];
  for (int64_t at = 0; at < padded; at += kNibbles * kLanes) {
    std::copy_n(row + at, kNibbles * kLanes, block);
#if HWY_TARGET == HWY_SCALAR
    std::copy_n(block, kNibbles, row + at);
#else
    const hn::RebindToSigned<DF> di;
    const auto index = hn::Mul(hn::Iota(di, 0), hn::Set(di, static_cast<int32_t>(kNibbles)));
    for (int64_t i = 0; i < kNibbles; ++i) {
      hn::Store(hn::GatherIndex(DF(), block + i, index), DF(), row + at + i * kLanes);
    }
#endif
  }
}

void sum_groups(const float* row, int64_t groups, int64_t group_size, float* sums, int64_t padded) {
  for (int64_t g = 0; g < groups; ++g) {
    VF sum = hn::Zero(DF());
    for (int64_t at = g * group_size; at < (g + 1) * group_size; at += kLanes) {
      sum = hn::Add(sum, hn::Load(DF(), row + at));
    }
    sums[g] = hn::GetLane(hn::SumOfLanes(DF(), sum));
  }
  std::fill(sums + groups, sums + padded, 0.0f);
}

void few_rows_impl(const Rows& x, const Quantized& weight, const float* bias, const OutRows& y, float* workspace) {
  const int64_t rows = x.count();
  const int64_t k = weight.k;
  const int64_t x_stride = x_stride_of(k);
  const int64_t sums_stride = sums_stride_of(weight.groups());
  const int64_t padded = round_up(k, kNibbles * kLanes);
  float* const packed = workspace;
  float* const sums = workspace + rows * x_stride;
  parallel_for(rows, std::max<int64_t>(1, 8192 / std::max<int64_t>(k, 1)), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t row = begin; row < end; ++row) {
      float* to = packed + row * x_stride;
      simd::with_type(x.type, x.rows[static_cast<size_t>(row)],
                      [&](auto* from) HWY_ATTR { simd::widen_row(from, k, to, padded); });
      sum_groups(to, weight.groups(), weight.group_size, sums + row * sums_stride, sums_stride);
      if (weight.bits == 4) {
        spread_row(to, padded);
      }
    }
  });

  // A range's codes stay in the second-level cache for all rows, and are enough work to hand out.
  constexpr int64_t kRangeBytes = 64 * 1024;
  constexpr int64_t kStep = 4;
  const int64_t columns =
      std::clamp<int64_t>(kRangeBytes / std::max<int64_t>(1, weight.row_bytes()) / kStep * kStep, kStep, kRangeColumns);
  parallel_for(weight.n, columns, [&](int64_t begin, int64_t end) HWY_ATTR {
    simd::with_type(weight.type, weight.scales, [&](auto* scales) HWY_ATTR {
      dot_range(weight, scales, static_cast<decltype(scales)>(weight.biases), rows, packed, x_stride, sums, sums_stride,
                bias, begin, end, y);
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace mamba::ops::quantized_detail
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops::quantized_detail {

HWY_EXPORT(few_rows_impl);

int64_t few_rows_workspace(int64_t rows, int64_t k, int64_t group_size) {
  return rows * (x_stride_of(k) + sums_stride_of(k / group_size));
}

void few_rows(const Rows& x, const Quantized& weight, const float* bias, const OutRows& y, float* workspace) {
  HWY_DYNAMIC_DISPATCH(few_rows_impl)(x, weight, bias, y, workspace);
}

}  // namespace mamba::ops::quantized_detail
#endif
