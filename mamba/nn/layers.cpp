#include "mamba/nn/layers.h"

#include <mlx/ops.h>

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

}  // namespace

mx::array Linear::operator()(const mx::array& x, const std::optional<mx::array>& spans, bool float32_out,
                             mx::StreamOrDevice s) const {
  ops::LinearOptions options;
  options.spans = spans;
  if (float32_out) {
    options.out_dtype = mx::float32;
  }
  return ops::linear(x, weight, bias, options, s);
}

void Linear::visit(const std::string& path, const ParameterVisitor& visitor) {
  visitor(joined(path, "weight"), weight);
  visit_optional(path, "bias", bias, visitor);
}

void RmsNorm::visit(const std::string& path, const ParameterVisitor& visitor) {
  visitor(joined(path, "weight"), weight);
}

mx::array Embedding::operator()(const mx::array& tokens, mx::StreamOrDevice s) const {
  return mx::take(weight, tokens, 0, s);
}

void Embedding::visit(const std::string& path, const ParameterVisitor& visitor) {
  visitor(joined(path, "weight"), weight);
}

void DepthwiseConv1d::visit(const std::string& path, const ParameterVisitor& visitor) {
  visitor(joined(path, "weight"), weight);
  visit_optional(path, "bias", bias, visitor);
}

}  // namespace mamba::nn
