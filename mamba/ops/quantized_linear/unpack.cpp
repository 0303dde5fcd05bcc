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

// `count` codes, rounded once to `type`, to elements `first` ... of `to`.
HWY_INLINE void dequantize_codes(const Format& format, const uint8_t* codes, VF scale, VF bias, int64_t count,
                                 Float type, void* to, int64_t first) {
  simd::with_type(type, to, [&](auto* typed) HWY_ATTR {
    using Out = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
    auto* out = const_cast<Out*>(typed) + first;
    for (int64_t at = 0; at < count; at += kLanes) {
      simd::store_float(hn::MulAdd(codes_at(codes, at, format.bits), scale, bias), out + at);
    }
  });
}

template <typename T>
HWY_INLINE VF set_to(const T* p) {
  return hn::Set(DF(), hn::GetLane(load_first(p, 1)));
}

void dequantize_row_impl(const Quantized& weight, int64_t row, Float type, void* to) {
  const uint8_t* codes = weight.codes + row * weight.row_bytes();
  const int64_t group = weight.group_size;
  simd::with_type(weight.type, weight.scales, [&](auto* scales) HWY_ATTR {
    const auto* biases = static_cast<decltype(scales)>(weight.biases);
    for (int64_t g = 0; g < weight.groups(); ++g) {
      const int64_t at = row * weight.groups() + g;
      dequantize_codes(weight, codes + g * group * weight.bits / 8, set_to(scales + at), set_to(biases + at), group,
                       type, to, g * group);
    }
  });
}

void dequantize_packed_row_impl(const Packed& weight, int64_t row, Float type, void* to) {
  constexpr int64_t kMaxWords = 32;
  HWY_ALIGN uint32_t words[kMaxWords];
  const uint8_t* tile = weight.block(row / Packed::kColumns);
  const int64_t column = row % Packed::kColumns;
  for (int64_t g = 0; g < weight.groups(); ++g, tile += weight.tile_bytes()) {
    const auto* codes = reinterpret_cast<const uint32_t*>(tile) + column;
    for (int64_t w = 0; w < weight.group_words(); ++w) {
      words[w] = codes[w * Packed::kColumns];
    }
    simd::with_type(weight.type, tile + weight.code_bytes(), [&](auto* scales) HWY_ATTR {
      dequantize_codes(weight, reinterpret_cast<const uint8_t*>(words), set_to(scales + column),
                       set_to(scales + Packed::kColumns + column), weight.group_size, type, to, g * weight.group_size);
    });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace mamba::ops::quantized_detail
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops::quantized_detail {

HWY_EXPORT(dequantize_row_impl);
HWY_EXPORT(dequantize_packed_row_impl);

void dequantize_row(const Quantized& weight, int64_t row, Float type, void* to) {
  HWY_DYNAMIC_DISPATCH(dequantize_row_impl)(weight, row, type, to);
}

void dequantize_row(const Packed& weight, int64_t row, Float type, void* to) {
  HWY_DYNAMIC_DISPATCH(dequantize_packed_row_impl)(weight, row, type, to);
}

}  // namespace mamba::ops::quantized_detail
#endif
