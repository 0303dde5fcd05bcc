// Many tokens of each sequence through one block of a model on a CPU: one node of the graph, whose loops threads walk
// through together. To the last bit what the block's operations give that models/block.cpp puts together, in half of
// their memory, and not differentiable.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <cstddef>
#include <memory>

#include "mamba/ops/model_step/cpu_step.h"

namespace mamba::ops {

// Whether so many tokens of each sequence can be done this way, `dtype` being the model's, and faster than by
// operations.
bool can_take_prompt(const CpuModel& model, int length, mlx::core::Dtype dtype);

struct PromptOutputs {
  mlx::core::array h;     // (B, L, M): the residual stream behind the block
  mlx::core::array conv;  // (B, K - 1, D) T
  mlx::core::array ssm;   // (B, D, N) float32
};

// Of block `index`; h (B, L, M) float32 or T is the residual stream before it, T the dtype of `conv`. Arrays are
// written in place where nobody else holds them. Throws Error where shapes or dtypes do not fit, or can_take_prompt()
// is false.
PromptOutputs cpu_prompt_block(const mlx::core::array& h, const mlx::core::array& conv, const mlx::core::array& ssm,
                               const std::shared_ptr<const CpuModel>& model, size_t index,
                               const mlx::core::Stream& stream);

}  // namespace mamba::ops
