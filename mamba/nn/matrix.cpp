#include "mamba/nn/matrix.h"

#include <mlx/ops.h>

#include "mamba/base/error.h"
#include "mamba/ops/linear/linear.h"

namespace mamba::nn {

namespace mx = mlx::core;

int Matrix::columns() const {
  return quantized ? weight.shape(1) * 32 / quantized->bits : weight.shape(1);
}

size_t Matrix::bytes() const {
  return weight.nbytes() + (quantized ? quantized->scales.nbytes() + quantized->biases.nbytes() : 0);
}

ops::QuantizedWeight Matrix::parts() const {
  check(quantized.has_value(), "[Matrix] is not quantised");
  return {.codes = weight,
          .scales = quantized->scales,
          .biases = quantized->biases,
          .group_size = quantized->group_size,
          .bits = quantized->bits};
}

void Matrix::set_parts(const ops::QuantizedWeight& parts) {
  weight = parts.codes;
  quantized =
      Quantized{.scales = parts.scales, .biases = parts.biases, .group_size = parts.group_size, .bits = parts.bits};
}

mx::array Matrix::multiply(const mx::array& x, const std::optional<mx::array>& bias, const ops::LinearOptions& options,
                           mx::StreamOrDevice s) const {
  return quantized ? ops::quantized_linear(x, parts(), bias, options, s) : ops::linear(x, weight, bias, options, s);
}

mx::array Matrix::take(const mx::array& indices, std::optional<mx::Dtype> dtype, mx::StreamOrDevice s) const {
  if (quantized) {
    return ops::quantized_rows(parts(), indices, dtype, s);
  }
  return mx::astype(mx::take(weight, indices, 0, s), dtype.value_or(weight.dtype()), s);
}

mx::array Matrix::dense(mx::Dtype dtype, mx::StreamOrDevice s) const {
  return quantized ? ops::dequantize(parts(), dtype, s) : mx::astype(weight, dtype, s);
}

void Matrix::visit(const std::string& path, const ParameterVisitor& visitor) {
  visitor(joined(path, "weight"), weight);
  if (quantized) {
    visitor(joined(path, "scales"), quantized->scales);
    visitor(joined(path, "biases"), quantized->biases);
  }
}

}  // namespace mamba::nn
