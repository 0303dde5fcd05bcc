// Inside linear_cross_entropy: the gradients of the log-probabilities.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <optional>

namespace mamba::ops::linear_cross_entropy_detail {

struct Gradients {
  std::optional<mlx::core::array> x;       // x's shape and dtype
  std::optional<mlx::core::array> weight;  // the weights'
};

// `cotangent` (...) float32 of the log-probabilities; `log_sums` (...) float32 as the forward pass left them. Computes
// what is asked for.
Gradients backward(const mlx::core::array& x, const mlx::core::array& weight, const mlx::core::array& targets,
                   const mlx::core::array& cotangent, const mlx::core::array& log_sums, bool of_x, bool of_weight,
                   mlx::core::Stream stream);

}  // namespace mamba::ops::linear_cross_entropy_detail
