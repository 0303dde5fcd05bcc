#include <mlx/ops.h>

#include "mamba/ops/block_step/block_step.h"
#include "mamba/ops/block_step/cpu_step.h"
#include "mamba/ops/causal_conv1d/reference.h"
#include "mamba/ops/linear/linear.h"
#include "mamba/ops/quantized_linear/packed.h"
#include "mamba/ops/rms_norm/reference.h"
#include "mamba/ops/selective_scan/reference.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

mx::array product(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                  const mx::Stream& s) {
  return linear_reference(x, weight, bias, {.out_dtype = mx::float32}, s);
}

mx::array product(const mx::array& x, const StepMatrix& weight, const std::optional<mx::array>& bias,
                  const mx::Stream& s) {
  return step_product_reference(x, weight, bias, s);
}

// Of the mixer's parts from either struct of weights.
template <typename Weights, typename Mixer>
StepOutputs reference(const mx::array& h, const mx::array& normed, const mx::array& conv, const mx::array& ssm,
                      const Weights& weights, const std::optional<mx::array>& in_bias,
                      const std::optional<mx::array>& out_bias, const Mixer& w, const mx::Stream& s) {
  const mx::Dtype dtype = conv.dtype();
  const int channels = w.A.shape(0);
  const int states = w.A.shape(1);
  const auto project = [&](const mx::array& x, const auto& weight, const std::optional<mx::array>& bias) {
    return mx::astype(product(x, weight, bias, s), dtype, s);
  };
  const mx::array xz = mx::expand_dims(project(normed, weights.in_proj, in_bias), 1, s);
  const std::vector<mx::array> halves = mx::split(xz, mx::Shape{channels}, -1, s);
  const auto convolved = causal_conv1d_reference(
      {.x = halves[0], .weight = w.conv_weight, .bias = w.conv_bias, .initial_state = conv, .silu = true}, s);
  const mx::array dt_B_C = project(convolved.y, w.x_proj, {});
  const int rank = dt_B_C.shape(-1) - 2 * states;
  const std::vector<mx::array> parts = mx::split(dt_B_C, mx::Shape{rank, rank + states}, -1, s);
  const auto scan = selective_scan_reference({.u = convolved.y,
                                              .delta = project(parts[0], w.dt_proj, {}),
                                              .A = w.A,
                                              .B = parts[1],
                                              .C = parts[2],
                                              .D = w.D,
                                              .z = halves[1],
                                              .delta_bias = w.dt_bias,
                                              .initial_state = ssm},
                                             s);
  const mx::array out = mx::squeeze(project(scan.y, weights.out_proj, out_bias), 1, s);
  const mx::array sum = mx::add(mx::astype(h, mx::float32, s), mx::astype(out, mx::float32, s), s);
  return {mx::astype(sum, h.dtype(), s), convolved.state, scan.state};
}

}  // namespace

mx::array step_product_reference(const mx::array& x, const StepMatrix& weight, const std::optional<mx::array>& bias,
                                 const mx::Stream& s) {
  const LinearOptions options{.out_dtype = mx::float32};
  if (const auto* quantized = std::get_if<QuantizedWeight>(&weight)) {
    return quantized_linear_reference(x, *quantized, bias, options, s);
  }
  if (const auto* packed = std::get_if<PackedWeight>(&weight)) {
    return quantized_linear_reference(x, unpack(*packed), bias, options, s);
  }
  return linear_reference(x, std::get<mx::array>(weight), bias, options, s);
}

StepOutputs block_step_reference(const mx::array& h, const mx::array& conv, const mx::array& ssm,
                                 const BlockStepWeights& weights, const mx::Stream& s) {
  const mx::array normed = rms_norm_reference(mx::astype(h, mx::float32, s), weights.norm, weights.eps, s);
  return reference(h, normed, conv, ssm, weights, {}, {}, weights.mixer, s);
}

StepOutputs cpu_block_step_reference(const mx::array& h, const mx::array& conv, const mx::array& ssm,
                                     const CpuStepWeights& weights, const mx::Stream& s) {
  const mx::array wide = rms_norm_reference(mx::astype(h, mx::float32, s), weights.norm, weights.eps, s);
  return reference(h, mx::astype(wide, conv.dtype(), s), conv, ssm, weights, weights.in_bias, weights.out_bias, weights,
                   s);
}

}  // namespace mamba::ops
