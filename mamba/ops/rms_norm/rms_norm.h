// Root-mean-square normalisation (Zhang and Sennrich 2019), alone and with the residual connection before it:
//
//   y = x / sqrt(mean_d(x^2) + eps) * weight
//
// Statistics are float32 whatever the inputs' dtype.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>
#include <utility>

namespace mamba::ops {

// x: (..., D), float32, bfloat16 or float16; weight: (D,), any of these. Returns (..., D) in x's dtype.
// Differentiable once in x and weight. Throws Error with the shapes when they do not agree. D is at least 1.
mlx::core::array rms_norm(const mlx::core::array& x, const mlx::core::array& weight, float eps,
                          mlx::core::StreamOrDevice s = {});

// {y, residual'} with residual' = residual + x (x itself where no residual is given), added in float32 and rounded to
// `residual_dtype`, and y = rms_norm(residual') in x's dtype. float32 keeps the residual stream in float32, as
// checkpoints with residual_in_fp32 ask; without a value it is the residual's own dtype, or x's where there is none.
std::pair<mlx::core::array, mlx::core::array> rms_norm_add(
    const mlx::core::array& x,                        // (..., D)
    const std::optional<mlx::core::array>& residual,  // (..., D), of x's dtype or float32
    const mlx::core::array& weight,                   // (D,)
    float eps, std::optional<mlx::core::Dtype> residual_dtype = std::nullopt, mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
