// The node of rms_norm in MLX's graph. Private to this folder.
#pragma once

#include <mlx/primitives.h>

#include <vector>

#include "mamba/ops/cpu/node.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/rms_norm/kernel.h"

namespace mamba::ops::norm {

struct Settings {
  float eps;
  bool operator==(const Settings&) const = default;
};

// Inputs: x, weight and, where there is one, the residual. Outputs: y and, where it is asked for, the sum.
class RmsNorm : public cpu::CpuNode<RmsNorm, Settings> {
 public:
  static constexpr const char* kOp = "rms_norm";
  using CpuNode::CpuNode;

  void eval_cpu(const std::vector<mlx::core::array>& inputs, std::vector<mlx::core::array>& outputs) override;
  const char* name() const override { return "RmsNorm"; }
  std::vector<mlx::core::array> vjp(const std::vector<mlx::core::array>& primals,
                                    const std::vector<mlx::core::array>& cotangents, const std::vector<int>& argnums,
                                    const std::vector<mlx::core::array>& outputs) override;
};

// Inputs: what was normalised, the weight, the cotangent of y and, where there was one, of the sum.
// Outputs: the gradients of the first two and, where the residual is wider than x, its own in float32.
class RmsNormGradient : public cpu::CpuGradientNode<RmsNormGradient, Settings> {
 public:
  static constexpr const char* kOp = "rms_norm";
  using CpuGradientNode::CpuGradientNode;

  void eval_cpu(const std::vector<mlx::core::array>& inputs, std::vector<mlx::core::array>& outputs) override;
  const char* name() const override { return "RmsNormGradient"; }
};

}  // namespace mamba::ops::norm
