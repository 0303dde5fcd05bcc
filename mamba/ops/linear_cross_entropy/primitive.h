// Inside linear_cross_entropy: its argument checks, and the primitives of Linux CPUs.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <optional>

namespace mamba::ops::linear_cross_entropy_detail {

// Throws Error "[linear_cross_entropy] ..." unless the arguments fit linear_cross_entropy.h.
void check_arguments(const mlx::core::array& x, const mlx::core::array& weight, const mlx::core::array& targets);

// The log-probabilities, (...) float32; differentiable in x and weight.
mlx::core::array forward(const mlx::core::array& x, const mlx::core::array& weight, const mlx::core::array& targets,
                         int ignore_index, mlx::core::Stream stream);

struct Gradients {
  mlx::core::array log_probabilities;      // (...) float32
  std::optional<mlx::core::array> x;       // x's shape and dtype
  std::optional<mlx::core::array> weight;  // the weights'
};

// The log-probabilities, and of their gradients what is asked for, in one pass over the logits. `cotangent` (...)
// float32 is that of the log-probabilities.
Gradients forward_and_backward(const mlx::core::array& x, const mlx::core::array& weight,
                               const mlx::core::array& targets, const mlx::core::array& cotangent, int ignore_index,
                               bool of_x, bool of_weight, mlx::core::Stream stream);

}  // namespace mamba::ops::linear_cross_entropy_detail
