// block_step on CPUs (block_step.h has the equation): a whole block's step for each of some sequences as one node of
// the graph. What a step costs there is to read the weights; between them the threads of one loop meet four times.
//
// Matrices may be quantised, and the large layers may have biases. What passes between layers is rounded to T, the
// norm's result too. T, float32, bfloat16 or float16, is the dtype of `conv`; weights may have any of the three. A
// sequence's result is the same to the last bit whatever the others are and on any number of threads. Not
// differentiable.
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

// Whether `stream` has it: CPU streams under Linux.
bool can_step_on_cpu(const mlx::core::Stream& stream);

// h (B, M) float32 or T, conv (B, K - 1, D) T, ssm (B, D, N) float32. Throws Error where shapes or dtypes do not fit.
StepOutputs cpu_block_step(const mlx::core::array& h, const mlx::core::array& conv, const mlx::core::array& ssm,
                           const CpuStepWeights& weights, const mlx::core::Stream& stream);

// The same in operations of their own: the specification.
StepOutputs cpu_block_step_reference(const mlx::core::array& h, const mlx::core::array& conv,
                                     const mlx::core::array& ssm, const CpuStepWeights& weights,
                                     const mlx::core::Stream& stream);

}  // namespace mamba::ops
