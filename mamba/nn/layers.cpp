#include "mamba/nn/layers.h"

#include "mamba/ops/linear/linear.h"

namespace mamba::nn {

namespace mx = mlx::core;

namespace {

void visit_optional(const std::string& path, const char* name, std::optional<mx::array>& value,
                    const ParameterVisitor& visitor) {
  if (value) {
    visitor(joined(path, name), *value);
  }
}

mx::array project(const Linear& layer, const mx::array& x, const std::optional<mx::array>& bias,
                  const std::optional<mx::array>& spans, mx::Dtype out_dtype, mx::StreamOrDevice s) {
  ops::LinearOptions options;
  options.spans = spans;
  options.out_dtype = out_dtype;
  if (layer.lora) {
    options.low_rank = layer.lora->term(x, spans, s);
  }
  return layer.multiply(x, bias, options, s);
}

}  // namespace

mx::array Linear::operator()(const mx::array& x, const std::optional<mx::array>& spans, bool float32_out,
                             mx::StreamOrDevice s) const {
  return project(*this, x, bias, spans, float32_out ? mx::float32 : x.dtype(), s);
}

mx::array Linear::without_bias(const mx::array& x, const std::optional<mx::array>& spans, mx::StreamOrDevice s) const {
  return project(*this, x, {}, spans, x.dtype(), s);
}

void Linear::visit(const std::string& path, const ParameterVisitor& visitor) {
  Matrix::visit(path, visitor);
  visit_optional(path, "bias", bias, visitor);
}

void RmsNorm::visit(const std::string& path, const ParameterVisitor& visitor) {
  visitor(joined(path, "weight"), weight);
}

mx::array Embedding::operator()(const mx::array& tokens, std::optional<mx::Dtype> dtype, mx::StreamOrDevice s) const {
  return take(tokens, dtype, s);
}

void DepthwiseConv1d::visit(const std::string& path, const ParameterVisitor& visitor) {
  visitor(joined(path, "weight"), weight);
  visit_optional(path, "bias", bias, visitor);
}

}  // namespace mamba::nn
