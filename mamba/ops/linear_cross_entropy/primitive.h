// Inside linear_cross_entropy: its argument checks, and the primitive of Linux CPUs.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

namespace mamba::ops::linear_cross_entropy_detail {

// Throws Error "[linear_cross_entropy] ..." unless the arguments fit linear_cross_entropy.h.
void check_arguments(const mlx::core::array& x, const mlx::core::array& weight, const mlx::core::array& targets);

// The log-probabilities, (...) float32.
mlx::core::array forward(const mlx::core::array& x, const mlx::core::array& weight, const mlx::core::array& targets,
                         int ignore_index, mlx::core::Stream stream);

}  // namespace mamba::ops::linear_cross_entropy_detail
