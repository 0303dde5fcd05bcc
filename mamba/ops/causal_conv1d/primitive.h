// The node of causal_conv1d in MLX's graph. Private to this folder.
#pragma once

#include <mlx/primitives.h>

#include <array>
#include <vector>

#include "mamba/ops/causal_conv1d/kernel.h"
#include "mamba/ops/cpu/node.h"
#include "mamba/ops/dispatch.h"

namespace mamba::ops::conv {

// Which inputs there are. x and weight always are, at 0 and 1; the others lie behind them as they come.
struct Layout {
  enum Slot { kBias, kInitialState, kSpans, kResets, kSlots };
  std::array<int, kSlots> slots{-1, -1, -1, -1};  // index among the inputs, -1: absent
  bool silu = true;

  bool has(Slot slot) const { return slots[slot] >= 0; }
  // Inputs that can be differentiated: all in front of spans and resets.
  int num_floating() const { return 2 + has(kBias) + has(kInitialState); }
  int num_inputs() const { return num_floating() + has(kSpans) + has(kResets); }
  bool operator==(const Layout&) const = default;
};

// What the kernels read, from the inputs of a node; copies what they cannot read in place.
Inputs kernel_inputs(const std::vector<mlx::core::array>& inputs, const Layout& layout,
                     mlx::core::cpu::CommandEncoder& encoder);

// Outputs: y and the state.
class CausalConv1d : public cpu::CpuNode<CausalConv1d, Layout> {
 public:
  static constexpr const char* kOp = "causal_conv1d";
  using CpuNode::CpuNode;

  void eval_cpu(const std::vector<mlx::core::array>& inputs, std::vector<mlx::core::array>& outputs) override;
  const char* name() const override { return "CausalConv1d"; }
  std::vector<mlx::core::array> vjp(const std::vector<mlx::core::array>& primals,
                                    const std::vector<mlx::core::array>& cotangents, const std::vector<int>& argnums,
                                    const std::vector<mlx::core::array>& outputs) override;
};

// Inputs: those of CausalConv1d and the cotangents of y and of the state.
// Outputs: the gradients of CausalConv1d's floating-point inputs, in their order.
class CausalConv1dGradient : public cpu::CpuGradientNode<CausalConv1dGradient, Layout> {
 public:
  static constexpr const char* kOp = "causal_conv1d";
  using CpuGradientNode::CpuGradientNode;

  void eval_cpu(const std::vector<mlx::core::array>& inputs, std::vector<mlx::core::array>& outputs) override;
  const char* name() const override { return "CausalConv1dGradient"; }
};

}  // namespace mamba::ops::conv
