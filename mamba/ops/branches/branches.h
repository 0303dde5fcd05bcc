// One value that goes several ways. Forward this is nothing: the branches are the value itself, or its columns where
// they lie. The gradients that come back are put together in one pass on all cores, where MLX would join or add them on
// one thread of a Linux CPU.
//
// On GPUs, and where nothing is differentiated, MLX's own operations.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <utility>
#include <vector>

namespace mamba::ops {

//   x       (..., K) float32, bfloat16 or float16
//   widths  of the parts, K in all
// The parts (..., widths[i]), side by side in x. Throws Error when the widths do not fit.
std::vector<mlx::core::array> column_branches(const mlx::core::array& x, const std::vector<int>& widths,
                                              mlx::core::StreamOrDevice s = {});

// x twice. Their gradients are added in float32 and rounded to x's dtype.
std::pair<mlx::core::array, mlx::core::array> two_branches(const mlx::core::array& x, mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
