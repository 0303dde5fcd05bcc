// Inside linear_cross_entropy: on GPUs. Arguments are checked by the caller. CPU streams serve tests
// (ops/gpu/kernel.h).
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

namespace mamba::ops::linear_cross_entropy_detail {

// The log-probabilities, (...) float32. `piece_tokens` tokens' logits are in memory at a time.
mlx::core::array gpu_log_probability(const mlx::core::array& x, const mlx::core::array& weight,
                                     const mlx::core::array& targets, int ignore_index, int piece_tokens,
                                     const mlx::core::Stream& stream);

}  // namespace mamba::ops::linear_cross_entropy_detail
