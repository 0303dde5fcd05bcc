#include "mamba/ops/rms_norm/reference.h"

#include <mlx/ops.h>

namespace mamba::ops {

namespace mx = mlx::core;

mx::array rms_norm_reference(const mx::array& x, const mx::array& weight, float eps, mx::StreamOrDevice s) {
  const mx::Dtype dtype = x.dtype() == mx::float64 ? mx::float64 : mx::float32;
  const mx::array wide = mx::astype(x, dtype, s);
  const mx::array mean = mx::mean(mx::square(wide, s), -1, true, s);
  const mx::array scale = mx::rsqrt(mx::add(mean, mx::array(eps, dtype), s), s);
  const mx::array y = mx::multiply(mx::multiply(wide, scale, s), mx::astype(weight, dtype, s), s);
  return mx::astype(y, x.dtype(), s);
}

std::pair<mx::array, mx::array> rms_norm_add_reference(const mx::array& x, const std::optional<mx::array>& residual,
                                                       const mx::array& weight, float eps,
                                                       std::optional<mx::Dtype> residual_dtype, mx::StreamOrDevice s) {
  const mx::Dtype dtype = x.dtype() == mx::float64 ? mx::float64 : mx::float32;
  mx::array sum = mx::astype(x, dtype, s);
  if (residual) {
    sum = mx::add(sum, mx::astype(*residual, dtype, s), s);
  }
  const mx::Dtype out = residual_dtype.value_or(residual ? residual->dtype() : x.dtype());
  sum = mx::astype(sum, out, s);
  const mx::array y = rms_norm_reference(mx::astype(sum, dtype, s), weight, eps, s);
  return {mx::astype(y, x.dtype(), s), sum};
}

}  // namespace mamba::ops
