#include "mamba/ops/rms_norm/primitive.h"

#include <mlx/ops.h>

#include <memory>

namespace mamba::ops::norm {

namespace mx = mlx::core;

namespace {

// Any array as rows of its last axis. More than three axes are read in place only where they lie end to end.
cpu::Rows rows_of(const mx::array& a, mx::cpu::CommandEncoder& encoder) {
  const mx::array in = a.ndim() <= 3 ? readable_rows(a, encoder) : row_contiguous(a, encoder);
  switch (in.ndim()) {
    case 1:
      return {in.data<void>(), 0, 0};
    case 2:
      return {in.data<void>(), 0, in.strides()[0]};
    case 3:
      return {in.data<void>(), in.strides()[0], in.strides()[1]};
    default:
      return {in.data<void>(), 0, in.shape(-1)};
  }
}

}  // namespace

void RmsNorm::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
  const mx::array& x = inputs[0];
  Inputs in{};
  in.channels = x.shape(-1);
  in.batch = x.ndim() == 3 ? x.shape(0) : 1;
  in.length = x.ndim() == 3 ? x.shape(1) : static_cast<int64_t>(x.size()) / in.channels;
  in.eps = settings_.eps;
  in.element = cpu::element_of(x);
  in.x = rows_of(x, encoder);
  in.weight = cpu::numbers_of(row_contiguous(inputs[1], encoder));
  in.wide_weight = workspace(in.channels, encoder);
  if (inputs.size() == 3) {
    in.residual = rows_of(inputs[2], encoder);
    in.residual_element = cpu::element_of(inputs[2]);
  }
  for (mx::array& out : outputs) {
    allocate(out);
  }
  Outputs out{outputs[0].data<void>(), in.element, nullptr, cpu::Element::kFloat32};
  if (outputs.size() == 2) {
    out.sum = outputs[1].data<void>();
    out.sum_element = cpu::element_of(outputs[1]);
  }
  encoder.dispatch([in, out] { forward(in, out); });
}

std::vector<mx::array> RmsNorm::vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                                    const std::vector<int>& argnums, const std::vector<mx::array>& outputs) {
  const mx::array& x = primals[0];
  std::vector<mx::array> inputs = {outputs.size() == 2 ? outputs[1] : x, primals[1]};
  inputs.insert(inputs.end(), cotangents.begin(), cotangents.end());
  std::vector<mx::Shape> shapes = {x.shape(), primals[1].shape()};
  std::vector<mx::Dtype> dtypes = {x.dtype(), primals[1].dtype()};
  // x and the residual have the same gradient, and where their dtypes differ the residual's is float32.
  const bool wide = primals.size() == 3 && primals[2].dtype() != x.dtype();
  if (wide) {
    shapes.push_back(x.shape());
    dtypes.push_back(mx::float32);
  }
  const std::vector<mx::array> gradients =
      mx::array::make_arrays(shapes, dtypes, std::make_shared<RmsNormGradient>(stream(), settings_), inputs);
  std::vector<mx::array> wanted;
  for (const int i : argnums) {
    wanted.push_back(gradients[i == 2 && !wide ? 0 : static_cast<size_t>(i)]);
  }
  return wanted;
}

void RmsNormGradient::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
  const mx::array& x = inputs[0];
  GradientInputs in{};
  in.channels = x.shape(-1);
  in.batch = x.ndim() == 3 ? x.shape(0) : 1;
  in.length = x.ndim() == 3 ? x.shape(1) : static_cast<int64_t>(x.size()) / in.channels;
  in.eps = settings_.eps;
  in.x = rows_of(x, encoder);
  in.x_element = cpu::element_of(x);
  in.weight = cpu::numbers_of(row_contiguous(inputs[1], encoder));
  in.wide_weight = workspace(in.channels, encoder);
  in.gy = rows_of(inputs[2], encoder);
  in.gy_element = cpu::element_of(inputs[2]);
  if (inputs.size() == 4) {
    in.gsum = rows_of(inputs[3], encoder);
    in.gsum_element = cpu::element_of(inputs[3]);
  }
  for (mx::array& out : outputs) {
    allocate(out);
  }
  const Gradients out{.x = outputs[0].data<void>(),
                      .x_element = cpu::element_of(outputs[0]),
                      .wide = outputs.size() == 3 ? outputs[2].data<float>() : nullptr,
                      .weight = outputs[1].data<void>(),
                      .weight_element = cpu::element_of(outputs[1]),
                      .shares = workspace(num_groups(in.batch * in.length) * in.channels, encoder)};
  encoder.dispatch([in, out] { backward(in, out); });
}

}  // namespace mamba::ops::norm
