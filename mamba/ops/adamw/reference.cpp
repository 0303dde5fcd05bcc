#include <mlx/ops.h>

#include "mamba/ops/adamw/kernel.h"

namespace mamba::ops {

namespace mx = mlx::core;

AdamWOutputs adamw_reference(const AdamWInputs& in, const AdamWOptions& options, mx::StreamOrDevice s) {
  const adamw_detail::Factors f = adamw_detail::factors_of(options);
  const auto times = [&](float factor, const mx::array& a) { return mx::multiply(mx::array(factor), a, s); };
  mx::array g = mx::astype(in.gradient, mx::float32, s);
  if (in.gradient_scale) {
    g = mx::multiply(g, *in.gradient_scale, s);
  }
  const mx::array m = mx::add(times(f.beta1, in.m), times(f.one_minus_beta1, g), s);
  const mx::array v = mx::add(times(f.beta2, in.v), times(f.one_minus_beta2, mx::square(g, s)), s);
  const mx::array denominator = mx::add(mx::divide(mx::sqrt(v, s), mx::array(f.root_of_bias2), s), mx::array(f.eps), s);
  const mx::array change = times(f.step_size, mx::divide(m, denominator, s));
  const mx::array parameter = mx::subtract(times(f.keep, in.parameter), change, s);
  AdamWOutputs out{parameter, m, v, std::nullopt, std::nullopt};
  if (in.average) {
    out.average = mx::add(times(f.average_decay, *in.average), times(f.one_minus_average_decay, parameter), s);
  }
  if (options.copy_dtype) {
    out.copy = mx::astype(parameter, *options.copy_dtype, s);
  }
  return out;
}

}  // namespace mamba::ops
