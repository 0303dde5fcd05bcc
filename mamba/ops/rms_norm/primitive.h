// The node of rms_norm in MLX's graph. Private to this folder.
#pragma once

#include <mlx/primitives.h>

#include <vector>

#include "mamba/ops/dispatch.h"
#include "mamba/ops/rms_norm/kernel.h"

namespace mamba::ops::norm {

// Inputs: x, weight and, where there is one, the residual. Outputs: y and, where it is asked for, the sum.
class RmsNorm : public mlx::core::Primitive {
 public:
  RmsNorm(const mlx::core::Stream& stream, float eps) : Primitive(stream), eps_(eps) {}

  void eval_cpu(const std::vector<mlx::core::array>& inputs, std::vector<mlx::core::array>& outputs) override;
  void eval_gpu(const std::vector<mlx::core::array>& inputs, std::vector<mlx::core::array>& outputs) override;
  const char* name() const override { return "RmsNorm"; }
  bool is_equivalent(const Primitive& other) const override;

 private:
  float eps_;
};

}  // namespace mamba::ops::norm
