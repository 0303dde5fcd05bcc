#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/quantized_linear/unpack.cpp"
#include "mamba/ops/cpu/targets.h"
//
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include "mamba/ops/quantized_linear/kernel.h"
#include "mamba/ops/quantized_linear/unpack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::quantized_detail {
namespace HWY_NAMESPACE {

// kLanes codes from element `at` on, as floats.
HWY_INLINE VF codes_at(const uint8_t* row, int64_t at, int64_t bits) {
  if (bits == 8) {
    return small_to_float(load_bytes(row + at));
  }
#if HWY_TARGET == HWY_SCALAR
  return hn::Set(DF(), static_cast<float>(row[at / 2] >> (at % 2 * 4) & 15));
#else
  return small_to_float(load_nibbles(row + at / 2));
#endif
}

void dequantize_row_impl(const Quantized& weight, int64_t row, Float type, void* to) {
  const uint8_t* codes = weight.codes + row * weight.row_bytes();
  const int64_t first = row * weight.groups();
  simd::with_type(weight.type, weight.scales, [&](auto* scales) HWY_ATTR {
    const auto* biases = static_cast<decltype(scales)>(weight.biases);
    simd::with_type(type, to, [&](auto* typed) HWY_ATTR {
      using Out = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
      auto* out = const_cast<Out*>(typed);
      for (int64_t g = 0; g < weight.groups(); ++g) {
        const VF scale = hn::Set(DF(), hn::GetLane(load_first(scales + first + g, 1)));
        const VF bias = hn::Set(DF(), hn::GetLane(load_first(biases + first + g, 1)));
        for (int64_t at = g * weight.group_size; at < (g + 1) * weight.group_size; at += kLanes) {
          simd::store_float(hn::MulAdd(codes_at(codes, at, weight.bits), scale, bias), out + at);
        }
      }
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace mamba::ops::quantized_detail
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops::quantized_detail {

HWY_EXPORT(dequantize_row_impl);

void dequantize_row(const Quantized& weight, int64_t row, Float type, void* to) {
  HWY_DYNAMIC_DISPATCH(dequantize_row_impl)(weight, row, type, to);
}

}  // namespace mamba::ops::quantized_detail
#endif
