#include "mamba/ops/quantized_linear/quantized_linear.h"

#include <mlx/ops.h>

#include <utility>

#include "mamba/base/error.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/linear/checks.h"
#ifndef __APPLE__
#include "mamba/ops/quantized_linear/forward.h"
#endif

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

constexpr const char* kOp = "quantized_linear";

// Where MLX's own product is fast. It wants x in the scales' dtype and sums in float32.
mx::array by_mlx(const mx::array& x, const QuantizedWeight& weight, const std::optional<mx::array>& bias,
                 const LinearOptions& options, mx::Stream stream) {
  const mx::Dtype out_dtype = options.out_dtype.value_or(x.dtype());
  const mx::Dtype dtype = x.dtype() == weight.scales.dtype() && x.dtype() == out_dtype ? x.dtype() : mx::float32;
  mx::array rows = mx::astype(x, dtype, stream);
  if (options.spans) {
    rows = keep_spans(rows, *options.spans, stream);
  }
  mx::array y = mx::quantized_matmul(rows, weight.codes, mx::astype(weight.scales, dtype, stream),
                                     mx::astype(weight.biases, dtype, stream), true, weight.group_size, weight.bits,
                                     "affine", stream);
  if (bias) {
    y = mx::add(y, mx::astype(*bias, dtype, stream), stream);
  }
  return finished_product(std::move(y), bias.has_value(), options, out_dtype, stream);
}

mx::array dequantized_by_mlx(const QuantizedWeight& weight, mx::Dtype dtype, mx::StreamOrDevice s) {
  const mx::array wide =
      mx::dequantize(weight.codes, mx::astype(weight.scales, mx::float32, s), mx::astype(weight.biases, mx::float32, s),
                     weight.group_size, weight.bits, "affine", {}, {}, s);
  return mx::astype(wide, dtype, s);
}

}  // namespace

void check_quantized(const char* op, const QuantizedWeight& weight) {
  const int group = weight.group_size;
  check(weight.bits == 4 || weight.bits == 8, "[{}] bits must be 4 or 8 but are {}", op, weight.bits);
  check(group == 32 || group == 64 || group == 128, "[{}] group_size must be 32, 64 or 128 but is {}", op, group);
  check(weight.codes.ndim() == 2, "[{}] codes must be (N, K * bits / 32) but got {}", op, shown(weight.codes.shape()));
  check(weight.codes.dtype() == mx::uint32, "[{}] codes must be uint32 but are {}", op, shown(weight.codes.dtype()));
  check(weight.columns() % group == 0, "[{}] codes hold {} columns, which groups of {} do not divide", op,
        weight.columns(), group);
  check_float(op, "scales", weight.scales);
  check_shape(op, "scales", weight.scales, {weight.rows(), weight.columns() / group});
  check_shape(op, "biases", weight.biases, {weight.rows(), weight.columns() / group});
  check(weight.scales.dtype() == weight.biases.dtype(), "[{}] scales are {} but biases are {}", op,
        shown(weight.scales.dtype()), shown(weight.biases.dtype()));
}

QuantizedWeight quantize(const mx::array& weight, int group_size, int bits, mx::StreamOrDevice s) {
  check_float("quantize", "weight", weight);
  check_shape("quantize", "weight", weight, {-1, -1});
  check(bits == 4 || bits == 8, "[quantize] bits must be 4 or 8 but are {}", bits);
  check(group_size == 32 || group_size == 64 || group_size == 128,
        "[quantize] group_size must be 32, 64 or 128 but is {}", group_size);
  check(weight.shape(1) % group_size == 0, "[quantize] groups of {} do not divide the {} columns of weight", group_size,
        weight.shape(1));
  const std::vector<mx::array> parts = mx::quantize(weight, group_size, bits, "affine", {}, s);
  return {.codes = parts[0], .scales = parts[1], .biases = parts[2], .group_size = group_size, .bits = bits};
}

mx::array dequantize(const QuantizedWeight& weight, std::optional<mx::Dtype> dtype, mx::StreamOrDevice s) {
  check_quantized("dequantize", weight);
  const mx::Dtype out = dtype.value_or(weight.scales.dtype());
#ifndef __APPLE__
  if (const mx::Stream stream = mx::to_stream(s); on_cpu(stream)) {
    return quantized_detail::dequantized_rows(weight, {}, out, stream);
  }
#endif
  return dequantized_by_mlx(weight, out, s);
}

mx::array quantized_rows(const QuantizedWeight& weight, const mx::array& indices, std::optional<mx::Dtype> dtype,
                         mx::StreamOrDevice s) {
  check_quantized("quantized_rows", weight);
  const mx::Dtype out = dtype.value_or(weight.scales.dtype());
  check(indices.dtype() == mx::int32, "[quantized_rows] indices must be int32 but are {}", shown(indices.dtype()));
#ifndef __APPLE__
  if (const mx::Stream stream = mx::to_stream(s); on_cpu(stream)) {
    return quantized_detail::dequantized_rows(weight, indices, out, stream);
  }
#endif
  QuantizedWeight rows = weight;
  for (mx::array* part : {&rows.codes, &rows.scales, &rows.biases}) {
    *part = mx::take(*part, indices, 0, s);
  }
  return dequantized_by_mlx(rows, out, s);
}

mx::array quantized_linear(const mx::array& x, const QuantizedWeight& weight, const std::optional<mx::array>& bias,
                           const LinearOptions& options, mx::StreamOrDevice s) {
  check_quantized(kOp, weight);
  check_linear(kOp, x, weight.rows(), weight.columns(), bias, options);
  const mx::Stream stream = mx::to_stream(s);
#ifndef __APPLE__
  if (on_cpu(stream)) {
    return quantized_detail::forward(x, weight, bias, options, stream);
  }
#endif
  return by_mlx(x, weight, bias, options, stream);
}

mx::array quantized_linear_reference(const mx::array& x, const QuantizedWeight& weight,
                                     const std::optional<mx::array>& bias, const LinearOptions& options,
                                     mx::StreamOrDevice s) {
  check_quantized(kOp, weight);
  return linear_reference(x, dequantized_by_mlx(weight, mx::float32, s), bias, options, s);
}

}  // namespace mamba::ops
