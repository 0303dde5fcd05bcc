// block_step on CPUs (block_step.h has the equation): the weights of a block as ops/model_step takes them there, one
// block after another.
//
// Matrices may be quantised, and the large layers may have biases. What passes between layers is rounded to T, the
// norm's result too. T, float32, bfloat16 or float16, is the dtype of `conv`; weights may have any of the three.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <optional>
#include <variant>

#include "mamba/ops/block_step/block_step.h"
#include "mamba/ops/quantized_linear/packed.h"

namespace mamba::ops {

// (N, K)
using StepMatrix = std::variant<mlx::core::array, QuantizedWeight, PackedWeight>;

struct CpuStepWeights {
  mlx::core::array norm;
  float eps;
  StepMatrix in_proj;
  std::optional<mlx::core::array> in_bias;
  mlx::core::array conv_weight;
  std::optional<mlx::core::array> conv_bias;
  StepMatrix x_proj;
  StepMatrix dt_proj;
  mlx::core::array dt_bias;  // float32, as A and D
  mlx::core::array A;
  mlx::core::array D;
  StepMatrix out_proj;
  std::optional<mlx::core::array> out_bias;
};

// x W^T + bias in float32.
mlx::core::array step_product_reference(const mlx::core::array& x, const StepMatrix& weight,
                                        const std::optional<mlx::core::array>& bias, const mlx::core::Stream& stream);

// h (B, M) float32 or T, conv (B, K - 1, D) T, ssm (B, D, N) float32. In operations of their own: the specification.
StepOutputs cpu_block_step_reference(const mlx::core::array& h, const mlx::core::array& conv,
                                     const mlx::core::array& ssm, const CpuStepWeights& weights,
                                     const mlx::core::Stream& stream);

}  // namespace mamba::ops
