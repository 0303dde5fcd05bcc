// Small matrices turned over, between "one row per channel" in memory and "one vector lane per channel" in kernels.
// Highway per-target header.

#if defined(MAMBA_OPS_CPU_TRANSPOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_OPS_CPU_TRANSPOSE_INL_H_
#undef MAMBA_OPS_CPU_TRANSPOSE_INL_H_
#else
#define MAMBA_OPS_CPU_TRANSPOSE_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET != HWY_SCALAR

// Rows i and columns j of four vectors of four swap places.
template <class V>
HWY_INLINE void transpose4(hn::FixedTag<float, 4> d, V& a, V& b, V& c, V& e) {
  const auto ac_low = hn::InterleaveLower(d, a, c);   // a0 c0 a1 c1
  const auto ac_high = hn::InterleaveUpper(d, a, c);  // a2 c2 a3 c3
  const auto be_low = hn::InterleaveLower(d, b, e);   // b0 e0 b1 e1
  const auto be_high = hn::InterleaveUpper(d, b, e);  // b2 e2 b3 e3
  a = hn::InterleaveLower(d, ac_low, be_low);         // a0 b0 c0 e0
  b = hn::InterleaveUpper(d, ac_low, be_low);
  c = hn::InterleaveLower(d, ac_high, be_high);
  e = hn::InterleaveUpper(d, ac_high, be_high);
}

#endif  // HWY_TARGET

// out[j * out_stride + i] = in[i * in_stride + j] for i < rows, j < columns.
HWY_INLINE void transpose(const float* in, int64_t in_stride, int64_t rows, int64_t columns, float* out,
                          int64_t out_stride) {
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::FixedTag<float, 4> d;
  for (; i + 4 <= rows; i += 4) {
    const float* p = in + i * in_stride;
    float* q = out + i;
    int64_t j = 0;
    for (; j + 4 <= columns; j += 4) {
      auto r0 = hn::LoadU(d, p + j);
      auto r1 = hn::LoadU(d, p + in_stride + j);
      auto r2 = hn::LoadU(d, p + 2 * in_stride + j);
      auto r3 = hn::LoadU(d, p + 3 * in_stride + j);
      transpose4(d, r0, r1, r2, r3);
      hn::StoreU(r0, d, q + j * out_stride);
      hn::StoreU(r1, d, q + (j + 1) * out_stride);
      hn::StoreU(r2, d, q + (j + 2) * out_stride);
      hn::StoreU(r3, d, q + (j + 3) * out_stride);
    }
    for (; j < columns; ++j) {
      for (int64_t k = 0; k < 4; ++k) {
        q[j * out_stride + k] = p[k * in_stride + j];
      }
    }
  }
#endif
  for (; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      out[j * out_stride + i] = in[i * in_stride + j];
    }
  }
}

}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_OPS_CPU_TRANSPOSE_INL_H_
