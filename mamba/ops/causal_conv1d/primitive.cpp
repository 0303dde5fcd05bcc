#include "mamba/ops/causal_conv1d/primitive.h"

#include <memory>

namespace mamba::ops::conv {

namespace mx = mlx::core;

Inputs kernel_inputs(const std::vector<mx::array>& inputs, const Layout& layout, mx::cpu::CommandEncoder& encoder) {
  // Temporaries live in the encoder until the kernel has run.
  const auto whole = [&](int i) { return row_contiguous(inputs[static_cast<size_t>(i)], encoder); };
  const mx::array& x = inputs[0];
  const mx::array& weight = inputs[1];
  Inputs in;
  in.batch = x.shape(0);
  in.length = x.ndim() == 3 ? x.shape(1) : 1;
  in.channels = x.shape(-1);
  in.taps = weight.shape(1);
  in.element = cpu::element_of(x);
  in.silu = layout.silu;
  in.x = cpu::rows_of(readable_rows(x, encoder));
  in.weight = cpu::numbers_of(whole(1));
  in.bias = layout.has(Layout::kBias) ? cpu::numbers_of(whole(layout.slots[Layout::kBias])) : cpu::Numbers{};
  const auto pointer = [&]<typename T>(Layout::Slot slot, T*) -> const T* {
    return layout.has(slot) ? whole(layout.slots[slot]).template data<T>() : nullptr;
  };
  in.initial_state = pointer(Layout::kInitialState, static_cast<void*>(nullptr));
  in.spans = pointer(Layout::kSpans, static_cast<int32_t*>(nullptr));
  in.resets = pointer(Layout::kResets, static_cast<uint8_t*>(nullptr));
  in.packed = workspace(packed_floats(in.channels, in.taps), encoder);
  return in;
}

void CausalConv1d::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
  const Inputs in = kernel_inputs(inputs, settings_, encoder);
  for (mx::array& out : outputs) {
    allocate(out);
  }
  const Outputs out{outputs[0].data<void>(), outputs[1].data<void>()};
  encoder.dispatch([in, out] { forward(in, out); });
}

std::vector<mx::array> CausalConv1d::vjp(const std::vector<mx::array>& primals,
                                         const std::vector<mx::array>& cotangents, const std::vector<int>& argnums,
                                         const std::vector<mx::array>&) {
  std::vector<mx::array> inputs = primals;
  inputs.insert(inputs.end(), cotangents.begin(), cotangents.end());
  return cpu::gradients_by(std::make_shared<CausalConv1dGradient>(stream(), settings_), inputs, primals,
                           settings_.num_floating(), argnums);
}

void CausalConv1dGradient::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
  const Inputs in = kernel_inputs(inputs, settings_, encoder);
  const int primals = settings_.num_inputs();
  for (mx::array& out : outputs) {
    allocate(out);
  }
  const auto optional = [&](Layout::Slot slot) {
    return settings_.has(slot) ? outputs[settings_.slots[slot]].data<void>() : nullptr;
  };
  const Gradients out{cpu::rows_of(readable_rows(inputs[primals], encoder)),
                      row_contiguous(inputs[primals + 1], encoder).data<void>(),
                      outputs[0].data<void>(),
                      in.channels,
                      outputs[1].data<void>(),
                      optional(Layout::kBias),
                      optional(Layout::kInitialState),
                      workspace(shares_floats(in.batch, in.channels, in.taps), encoder)};
  encoder.dispatch([in, out] { backward(in, out); });
}

}  // namespace mamba::ops::conv
