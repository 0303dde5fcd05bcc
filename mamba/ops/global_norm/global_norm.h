// The Euclidean norm of many arrays taken as one vector: what gradient clipping needs.
//
//   norm = sqrt(sum over arrays and elements of x^2)        () float32
//
// Sums are float64, over blocks in a fixed order: the result does not depend on the number of threads.
// Not differentiable.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <vector>

namespace mamba::ops {

// Arrays of any shapes; float32, bfloat16 or float16. No arrays: 0. Throws Error for other dtypes.
mlx::core::array global_norm(const std::vector<mlx::core::array>& arrays, mlx::core::StreamOrDevice s = {});

// The same in plain MLX operations, in float32: the specification.
mlx::core::array global_norm_reference(const std::vector<mlx::core::array>& arrays, mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
