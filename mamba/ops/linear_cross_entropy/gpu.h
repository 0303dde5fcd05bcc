// Inside linear_cross_entropy: on GPUs. Arguments are checked by the caller. CPU streams serve tests
// (ops/gpu/kernel.h).
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <optional>
#include <vector>

namespace mamba::ops::linear_cross_entropy_detail {

// The log-probabilities, (...) float32. `piece_tokens` tokens' logits are in memory at a time.
mlx::core::array gpu_log_probability(const mlx::core::array& x, const mlx::core::array& weight,
                                     const mlx::core::array& targets, int ignore_index, int piece_tokens,
                                     const mlx::core::Stream& stream);

struct GpuGradients {
  mlx::core::array log_probabilities;           // (...) float32
  mlx::core::array x;                           // like x
  std::optional<mlx::core::array> weight = {};  // like the weight, where it was asked for
  std::vector<mlx::core::array> pieces = {};    // LinearCrossEntropyGradients'
};

// Both in one pass over the logits. `cotangent` (...): that of the log-probabilities. Not differentiable.
GpuGradients gpu_gradients(const mlx::core::array& x, const mlx::core::array& weight, const mlx::core::array& targets,
                           const mlx::core::array& cotangent, int ignore_index, int piece_tokens, bool of_weight,
                           const mlx::core::Stream& stream);

}  // namespace mamba::ops::linear_cross_entropy_detail
