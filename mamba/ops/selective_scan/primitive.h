// The node of selective_scan in MLX's graph. Private to this folder.
#pragma once

#include <mlx/primitives.h>

#include <array>
#include <vector>

#include "mamba/ops/cpu/node.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/selective_scan/kernel.h"

namespace mamba::ops::scan {

// Which inputs there are. u, delta, A, B and C always are, at 0 to 4; the others lie behind them as they come.
struct Layout {
  enum Slot { kD, kZ, kDeltaBias, kInitialState, kSpans, kResets, kSlots };
  std::array<int, kSlots> slots{-1, -1, -1, -1, -1, -1};  // index among the inputs, -1: absent
  bool softplus = true;

  bool has(Slot slot) const { return slots[slot] >= 0; }
  // Inputs that can be differentiated: all in front of spans and resets.
  int num_floating() const { return 5 + has(kD) + has(kZ) + has(kDeltaBias) + has(kInitialState); }
  int num_inputs() const { return num_floating() + has(kSpans) + has(kResets); }
  bool operator==(const Layout&) const = default;
};

// What the kernels read, from the inputs of a node; copies what they cannot read in place.
Inputs kernel_inputs(const std::vector<mlx::core::array>& inputs, const Layout& layout,
                     mlx::core::cpu::CommandEncoder& encoder);

// Outputs: y, the final state, and the kept states.
class SelectiveScan : public cpu::CpuNode<SelectiveScan, Layout> {
 public:
  static constexpr const char* kOp = "selective_scan";
  using CpuNode::CpuNode;

  void eval_cpu(const std::vector<mlx::core::array>& inputs, std::vector<mlx::core::array>& outputs) override;
  const char* name() const override { return "SelectiveScan"; }
  std::vector<mlx::core::array> vjp(const std::vector<mlx::core::array>& primals,
                                    const std::vector<mlx::core::array>& cotangents, const std::vector<int>& argnums,
                                    const std::vector<mlx::core::array>& outputs) override;
};

// Inputs: those of SelectiveScan, its kept states, and the cotangents of y and of the final state.
// Outputs: the gradients of SelectiveScan's floating-point inputs, in their order.
class SelectiveScanGradient : public cpu::CpuGradientNode<SelectiveScanGradient, Layout> {
 public:
  static constexpr const char* kOp = "selective_scan";
  using CpuGradientNode::CpuGradientNode;

  void eval_cpu(const std::vector<mlx::core::array>& inputs, std::vector<mlx::core::array>& outputs) override;
  const char* name() const override { return "SelectiveScanGradient"; }
};

}  // namespace mamba::ops::scan
