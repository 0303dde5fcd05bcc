// The node of causal_conv1d in MLX's graph. Private to this folder.
#pragma once

#include <mlx/primitives.h>

#include <array>
#include <vector>

#include "mamba/ops/causal_conv1d/kernel.h"
#include "mamba/ops/dispatch.h"

namespace mamba::ops::conv {

// Which inputs there are. x and weight always are, at 0 and 1; the others lie behind them as they come.
struct Layout {
  enum Slot { kBias, kInitialState, kSpans, kResets, kSlots };
  std::array<int, kSlots> slots{-1, -1, -1, -1};  // index among the inputs, -1: absent
  bool silu = true;

  bool has(Slot slot) const { return slots[slot] >= 0; }
  bool operator==(const Layout&) const = default;
};

// What the kernels read, from the inputs of a node; copies what they cannot read in place.
Inputs kernel_inputs(const std::vector<mlx::core::array>& inputs, const Layout& layout,
                     mlx::core::cpu::CommandEncoder& encoder);

// Outputs: y and the state.
class CausalConv1d : public mlx::core::Primitive {
 public:
  CausalConv1d(const mlx::core::Stream& stream, const Layout& layout) : Primitive(stream), layout_(layout) {}

  void eval_cpu(const std::vector<mlx::core::array>& inputs, std::vector<mlx::core::array>& outputs) override;
  void eval_gpu(const std::vector<mlx::core::array>& inputs, std::vector<mlx::core::array>& outputs) override;
  const char* name() const override { return "CausalConv1d"; }
  bool is_equivalent(const Primitive& other) const override;

 private:
  Layout layout_;
};

}  // namespace mamba::ops::conv
