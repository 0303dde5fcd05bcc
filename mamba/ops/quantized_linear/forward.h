// Inside quantized_linear: the primitives of Linux CPUs. Arguments are checked by the caller.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <memory>
#include <optional>
#include <vector>

#include "mamba/ops/linear/weights.h"
#include "mamba/ops/quantized_linear/packed.h"
#include "mamba/ops/quantized_linear/quantized_linear.h"

namespace mamba::ops::quantized_detail {

mlx::core::array forward(const mlx::core::array& x, const QuantizedWeight& weight,
                         const std::optional<mlx::core::array>& bias, const LinearOptions& options,
                         mlx::core::Stream stream);
mlx::core::array forward(const mlx::core::array& x, const PackedWeight& weight,
                         const std::optional<mlx::core::array>& bias, const LinearOptions& options,
                         mlx::core::Stream stream);

// Their form, and their arrays in its order.
std::shared_ptr<const linear_detail::WeightFormat> format_of(const QuantizedWeight& weight);
std::shared_ptr<const linear_detail::WeightFormat> format_of(const PackedWeight& weight);
std::vector<mlx::core::array> arrays_of(const QuantizedWeight& weight);
std::vector<mlx::core::array> arrays_of(const PackedWeight& weight);

// Rows `indices` (...) int32 of W, or all of them: (..., K) or (N, K) in `dtype`. No gradients.
mlx::core::array dequantized_rows(const QuantizedWeight& weight, const std::optional<mlx::core::array>& indices,
                                  mlx::core::Dtype dtype, mlx::core::Stream stream);
mlx::core::array dequantized_rows(const PackedWeight& weight, const std::optional<mlx::core::array>& indices,
                                  mlx::core::Dtype dtype, mlx::core::Stream stream);

}  // namespace mamba::ops::quantized_detail
