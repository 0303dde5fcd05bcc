#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/linear/convert.cpp"
#include "mamba/ops/cpu/targets.h"
//
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include "mamba/base/threads.h"
#include "mamba/ops/linear/convert.h"
#include "mamba/ops/linear/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::linear_detail {
namespace HWY_NAMESPACE {

void widen_impl(const void* from, Float type, int64_t count, float* to) {
  with_type(type, from, [&](auto* p) HWY_ATTR {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      store_float(load_float(p + i), to + i);
    }
    if (i < count) {
      store_float_part(load_float_part(p + i, count - i), to + i, count - i);
    }
  });
}

void narrow_impl(const float* from, int64_t count, Float type, void* to) {
  with_type(type, to, [&](auto* p) HWY_ATTR {
    using Out = std::remove_const_t<std::remove_pointer_t<decltype(p)>>;
    narrow_row(from, nullptr, count, const_cast<Out*>(p));
  });
}

// Eight rows of eight elements, through the registers. `to` is `stride` elements from one row to the next.
HWY_INLINE void transpose_8x8(const uint16_t* const* rows, int64_t column, uint16_t* to, int64_t stride) {
#if HWY_TARGET == HWY_SCALAR
  for (int64_t l = 0; l < 8; ++l) {
    for (int64_t i = 0; i < 8; ++i) {
      to[i * stride + l] = rows[l][column + i];
    }
  }
#else
  const hn::FixedTag<uint16_t, 8> d;
  const hn::Repartition<uint32_t, decltype(d)> d32;
  const hn::Repartition<uint64_t, decltype(d)> d64;
  hn::Vec<decltype(d)> r[8];
  MAMBA_CPU_UNROLL(8)
  for (int l = 0; l < 8; ++l) {
    r[l] = hn::LoadU(d, rows[l] + column);
  }
  // Pairs of rows, then fours, then all eight: after each step a vector holds twice as many rows of half as many
  // columns.
  hn::Vec<decltype(d32)> pairs[8];
  MAMBA_CPU_UNROLL(4)
  for (int l = 0; l < 4; ++l) {
    pairs[2 * l] = hn::BitCast(d32, hn::InterleaveLower(d, r[2 * l], r[2 * l + 1]));
    pairs[2 * l + 1] = hn::BitCast(d32, hn::InterleaveUpper(d, r[2 * l], r[2 * l + 1]));
  }
  hn::Vec<decltype(d64)> fours[8];
  MAMBA_CPU_UNROLL(2)
  for (int half = 0; half < 2; ++half) {
    MAMBA_CPU_UNROLL(2)
    for (int upper = 0; upper < 2; ++upper) {
      const auto a = pairs[4 * half + upper];
      const auto b = pairs[4 * half + 2 + upper];
      fours[4 * half + 2 * upper] = hn::BitCast(d64, hn::InterleaveLower(d32, a, b));
      fours[4 * half + 2 * upper + 1] = hn::BitCast(d64, hn::InterleaveUpper(d32, a, b));
    }
  }
  MAMBA_CPU_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, fours[i], fours[4 + i])), d, to + 2 * i * stride);
    hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, fours[i], fours[4 + i])), d, to + (2 * i + 1) * stride);
  }
#endif
}

template <typename T>
void transpose_elements(const Rows& rows, int64_t first, int64_t count, T* to) {
  const int64_t depth = rows.count();
  const auto row = [&](int64_t l) HWY_ATTR { return static_cast<const T*>(rows.rows[static_cast<size_t>(l)]) + first; };
  const auto by_element = [&](int64_t l0, int64_t l1, int64_t i0, int64_t i1) HWY_ATTR {
    for (int64_t l = l0; l < l1; ++l) {
      for (int64_t i = i0; i < i1; ++i) {
        to[i * depth + l] = row(l)[i];
      }
    }
  };
  // Along the results' rows, so that they are written line after line.
  const int64_t whole = sizeof(T) == 2 ? count / 8 * 8 : 0;
  const int64_t whole_depth = depth / 8 * 8;
  if constexpr (sizeof(T) == 2) {
    for (int64_t i = 0; i < whole; i += 8) {
      for (int64_t l = 0; l < whole_depth; l += 8) {
        const T* eight[8];
        for (int64_t r = 0; r < 8; ++r) {
          eight[r] = row(l + r);
        }
        transpose_8x8(eight, i, to + i * depth + l, depth);
      }
    }
    by_element(whole_depth, depth, 0, whole);
  }
  by_element(0, depth, whole, count);
}

void transpose_impl(const Rows& rows, int64_t first, int64_t count, void* to) {
  if (size_of(rows.type) == 2) {
    transpose_elements(rows, first, count, static_cast<uint16_t*>(to));
  } else {
    transpose_elements(rows, first, count, static_cast<uint32_t*>(to));
  }
}

void sum_rows_impl(const Rows& rows, int64_t count, float* sums) {
  constexpr int64_t kStrip = 256;
  parallel_for((count + kStrip - 1) / kStrip, 1, [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t column = begin * kStrip; column < std::min(count, end * kStrip); column += kLanes) {
      const int64_t width = std::min(kLanes, count - column);
      VF sum = hn::Zero(DF());
      for (const void* row : rows.rows) {
        with_type(rows.type, row, [&](auto* p) HWY_ATTR {
          sum = hn::Add(sum, width == kLanes ? load_float(p + column) : load_float_part(p + column, width));
        });
      }
      store_float_part(sum, sums + column, width);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace mamba::ops::linear_detail
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops::linear_detail {

HWY_EXPORT(widen_impl);
HWY_EXPORT(narrow_impl);
HWY_EXPORT(transpose_impl);
HWY_EXPORT(sum_rows_impl);

void widen(const void* from, Float type, int64_t count, float* to) {
  HWY_DYNAMIC_DISPATCH(widen_impl)(from, type, count, to);
}

void narrow(const float* from, int64_t count, Float type, void* to) {
  HWY_DYNAMIC_DISPATCH(narrow_impl)(from, count, type, to);
}

void transpose(const Rows& rows, int64_t first, int64_t count, void* to) {
  HWY_DYNAMIC_DISPATCH(transpose_impl)(rows, first, count, to);
}

void sum_rows(const Rows& rows, int64_t count, float* sums) {
  HWY_DYNAMIC_DISPATCH(sum_rows_impl)(rows, count, sums);
}

}  // namespace mamba::ops::linear_detail
#endif
