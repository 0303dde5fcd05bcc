// rms_norm as plain MLX operations: the specification, the oracle of the tests, and what runs where there is no kernel.
#pragma once

#include "mamba/ops/rms_norm/rms_norm.h"

namespace mamba::ops {

// As rms_norm; works in float64 when the inputs are float64.
mlx::core::array rms_norm_reference(const mlx::core::array& x, const mlx::core::array& weight, float eps,
                                    mlx::core::StreamOrDevice s = {});

// As rms_norm_add.
std::pair<mlx::core::array, mlx::core::array> rms_norm_add_reference(
    const mlx::core::array& x, const std::optional<mlx::core::array>& residual, const mlx::core::array& weight,
    float eps, std::optional<mlx::core::Dtype> residual_dtype = std::nullopt, mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
