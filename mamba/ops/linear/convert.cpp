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
HWY_EXPORT(sum_rows_impl);

void widen(const void* from, Float type, int64_t count, float* to) {
  HWY_DYNAMIC_DISPATCH(widen_impl)(from, type, count, to);
}

void narrow(const float* from, int64_t count, Float type, void* to) {
  HWY_DYNAMIC_DISPATCH(narrow_impl)(from, count, type, to);
}

void sum_rows(const Rows& rows, int64_t count, float* sums) {
  HWY_DYNAMIC_DISPATCH(sum_rows_impl)(rows, count, sums);
}

}  // namespace mamba::ops::linear_detail
#endif
