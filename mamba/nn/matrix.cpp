#include "mamba/nn/matrix.h"

#include <mlx/ops.h>

#include <utility>

#include "mamba/base/error.h"
#include "mamba/ops/linear/linear.h"

namespace mamba::nn {

namespace mx = mlx::core;

int Matrix::columns() const {
  if (packed) {
    return packed->columns();
  }
  return quantized ? weight.shape(1) * 32 / quantized->bits : weight.shape(1);
}

size_t Matrix::bytes() const {
  if (packed) {
    const size_t elements = static_cast<size_t>(rows()) * static_cast<size_t>(columns());
    return elements * static_cast<size_t>(packed->bits) / 8 +
           2 * elements / static_cast<size_t>(packed->group_size) * packed->dtype.size();
  }
  return weight.nbytes() + (quantized ? quantized->scales.nbytes() + quantized->biases.nbytes() : 0);
}

ops::QuantizedWeight Matrix::parts() const {
  check(quantized.has_value(), "[Matrix] is not quantised");
  check(!packed, "[Matrix] is packed");
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

void Matrix::set_packed(ops::PackedWeight weights) {
  weight = unset();
  quantized = Quantized{.group_size = weights.group_size, .bits = weights.bits};
  packed = std::move(weights);
}

void Matrix::unpack() {
  if (packed) {
    set_parts(ops::unpack(*packed));
    packed.reset();
  }
}

mx::array Matrix::multiply(const mx::array& x, const std::optional<mx::array>& bias, const ops::LinearOptions& options,
                           mx::StreamOrDevice s) const {
  if (packed) {
    return ops::quantized_linear(x, *packed, bias, options, s);
  }
  if (quantized) {
    return ops::quantized_linear(x, parts(), bias, options, s);
  }
  if (!operand) {
    return ops::linear(x, weight, bias, options, s);
  }
  ops::LinearOptions with_operand = options;
  with_operand.operand = &*operand;
  return ops::linear(x, weight, bias, with_operand, s);
}

mx::array Matrix::take(const mx::array& indices, std::optional<mx::Dtype> dtype, mx::StreamOrDevice s) const {
  if (packed) {
    return ops::quantized_rows(*packed, indices, dtype, s);
  }
  if (quantized) {
    return ops::quantized_rows(parts(), indices, dtype, s);
  }
  return mx::astype(mx::take(weight, indices, 0, s), dtype.value_or(weight.dtype()), s);
}

mx::array Matrix::dense(mx::Dtype dtype, mx::StreamOrDevice s) const {
  if (packed) {
    return ops::dequantize(*packed, dtype, s);
  }
  return quantized ? ops::dequantize(parts(), dtype, s) : mx::astype(weight, dtype, s);
}

void Matrix::visit(const std::string& path, const ParameterVisitor& visitor) {
  operand.reset();
  if (packed) {
    visitor(joined(path, "weight"), packed->tiles);
    return;
  }
  visitor(joined(path, "weight"), weight);
  if (quantized) {
    visitor(joined(path, "scales"), quantized->scales);
    visitor(joined(path, "biases"), quantized->biases);
  }
}

}  // namespace mamba::nn
