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
  std::vector<mlx::core::array> vjp(const std::vector<mlx::core::array>& primals,
                                    const std::vector<mlx::core::array>& cotangents, const std::vector<int>& argnums,
                                    const std::vector<mlx::core::array>& outputs) override;

 private:
  float eps_;
};

// Inputs: what was normalised, the weight, the cotangent of y and, where there was one, of the sum.
// Outputs: the gradients of the first two.
class RmsNormGradient : public mlx::core::Primitive {
 public:
  RmsNormGradient(const mlx::core::Stream& stream, float eps) : Primitive(stream), eps_(eps) {}

  void eval_cpu(const std::vector<mlx::core::array>& inputs, std::vector<mlx::core::array>& outputs) override;
  void eval_gpu(const std::vector<mlx::core::array>& inputs, std::vector<mlx::core::array>& outputs) override;
  const char* name() const override { return "RmsNormGradient"; }
  bool is_equivalent(const Primitive& other) const override;
  std::vector<mlx::core::array> vjp(const std::vector<mlx::core::array>& primals,
                                    const std::vector<mlx::core::array>& cotangents, const std::vector<int>& argnums,
                                    const std::vector<mlx::core::array>& outputs) override;

 private:
  float eps_;
};

}  // namespace mamba::ops::norm
