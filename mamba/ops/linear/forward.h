// Inside linear: the primitives of Linux CPUs. Arguments are checked by the caller.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <optional>

#include "mamba/ops/linear/linear.h"

namespace mamba::ops::linear_detail {

mlx::core::array forward(const mlx::core::array& x, const mlx::core::array& weight,
                         const std::optional<mlx::core::array>& bias, const LinearOptions& options,
                         mlx::core::Stream stream);

// dy W, in x's shape and dtype; 0 outside the spans.
mlx::core::array input_gradient(const mlx::core::array& dy, const mlx::core::array& weight,
                                const std::optional<mlx::core::array>& spans, mlx::core::Dtype dtype,
                                mlx::core::Stream stream);

struct WeightGradients {
  mlx::core::array weight;               // (N, K)
  std::optional<mlx::core::array> bias;  // (N,), where it was asked for
};

// dy^T x over the rows inside the spans, in the weights' dtype; with `bias_dtype` the sum of those rows of dy, too.
WeightGradients weight_gradient(const mlx::core::array& dy, const mlx::core::array& x,
                                const std::optional<mlx::core::array>& spans, mlx::core::Dtype weight_dtype,
                                std::optional<mlx::core::Dtype> bias_dtype, mlx::core::Stream stream);

}  // namespace mamba::ops::linear_detail
