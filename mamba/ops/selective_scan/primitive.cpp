#include "mamba/ops/selective_scan/primitive.h"

#include <memory>

namespace mamba::ops::scan {

namespace mx = mlx::core;

Inputs kernel_inputs(const std::vector<mx::array>& inputs, const Layout& layout, mx::cpu::CommandEncoder& encoder) {
  // Temporaries live in the encoder until the kernel has run.
  const auto rows = [&](int i) { return cpu::rows_of(readable_rows(inputs[i], encoder)); };
  const auto whole = [&](int i) { return row_contiguous(inputs[i], encoder); };
  const auto numbers = [&](Layout::Slot slot) {
    return layout.has(slot) ? cpu::numbers_of(whole(layout.slots[slot])) : cpu::Numbers{};
  };
  const mx::array& u = inputs[0];
  Inputs in;
  in.batch = u.shape(0);
  in.length = u.ndim() == 3 ? u.shape(1) : 1;
  in.channels = u.shape(-1);
  in.states = inputs[2].shape(1);
  in.element = cpu::element_of(u);
  in.softplus = layout.softplus;
  in.u = rows(0);
  in.delta = rows(1);
  in.A = whole(2).data<float>();
  in.B = rows(3);
  in.C = rows(4);
  in.z = layout.has(Layout::kZ) ? rows(layout.slots[Layout::kZ]) : cpu::Rows{};
  in.D = numbers(Layout::kD);
  in.delta_bias = numbers(Layout::kDeltaBias);
  const auto pointer = [&]<typename T>(Layout::Slot slot, T*) -> const T* {
    return layout.has(slot) ? whole(layout.slots[slot]).template data<T>() : nullptr;
  };
  in.initial_state = pointer(Layout::kInitialState, static_cast<float*>(nullptr));
  in.spans = pointer(Layout::kSpans, static_cast<int32_t*>(nullptr));
  in.resets = pointer(Layout::kResets, static_cast<uint8_t*>(nullptr));
  return in;
}

void SelectiveScan::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
  const Inputs in = kernel_inputs(inputs, settings_, encoder);
  for (mx::array& out : outputs) {
    allocate(out);
  }
  const Outputs out{outputs[0].data<void>(), outputs[1].data<float>(), outputs[2].data<float>()};
  encoder.dispatch([in, out] { forward(in, out); });
}

std::vector<mx::array> SelectiveScan::vjp(const std::vector<mx::array>& primals,
                                          const std::vector<mx::array>& cotangents, const std::vector<int>& argnums,
                                          const std::vector<mx::array>& outputs) {
  std::vector<mx::array> inputs = primals;
  inputs.insert(inputs.end(), {outputs[2], cotangents[0], cotangents[1]});
  return cpu::gradients_by(std::make_shared<SelectiveScanGradient>(stream(), settings_), inputs, primals,
                           settings_.num_floating(), argnums);
}

void SelectiveScanGradient::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
  const Inputs in = kernel_inputs(inputs, settings_, encoder);
  const int primals = settings_.num_inputs();
  const Cotangents cotangents{cpu::rows_of(readable_rows(inputs[primals + 1], encoder)),
                              row_contiguous(inputs[primals + 2], encoder).data<float>(),
                              row_contiguous(inputs[primals], encoder).data<float>()};
  for (mx::array& out : outputs) {
    allocate(out);
  }
  const auto optional = [&](Layout::Slot slot) {
    return settings_.has(slot) ? outputs[settings_.slots[slot]].data<void>() : nullptr;
  };
  const Gradients out{outputs[0].data<void>(),
                      outputs[1].data<void>(),
                      outputs[2].data<float>(),
                      outputs[3].data<void>(),
                      outputs[4].data<void>(),
                      in.states,
                      optional(Layout::kD),
                      optional(Layout::kZ),
                      in.channels,
                      optional(Layout::kDeltaBias),
                      static_cast<float*>(optional(Layout::kInitialState)),
                      workspace(workspace_floats(in.batch, in.channels, in.states), encoder)};
  encoder.dispatch([in, cotangents, out] { backward(in, cotangents, out); });
}

}  // namespace mamba::ops::scan
