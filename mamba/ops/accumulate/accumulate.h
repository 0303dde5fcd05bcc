// sum + value in float32, in the memory of `sum`: how gradients of several batches are gathered, and those of several
// uses of one array.
//
// MLX's own addition runs on one thread on Linux CPUs: over a model's gradients it would cost a tenth of a step.
// Not differentiable.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

namespace mamba::ops {

//   sum    any shape; float32, bfloat16 or float16, to which the result is rounded; where the caller gives it up (moves
//          it in), the result takes over its memory
//   value  the same shape; float32, bfloat16 or float16
// Throws Error when shapes or dtypes do not fit.
mlx::core::array accumulate(mlx::core::array sum, const mlx::core::array& value, mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
