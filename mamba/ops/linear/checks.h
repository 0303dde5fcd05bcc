// Inside linear: what its implementations share.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>
#include <mlx/utils.h>

#include <optional>

#include "mamba/ops/linear/linear.h"

namespace mamba::ops {

// Throws Error "[linear] ..." unless the arguments fit linear.h.
void check_linear(const mlx::core::array& x, const mlx::core::array& weight,
                  const std::optional<mlx::core::array>& bias, const LinearOptions& options);

// The same for weights (n, k) of another form, messages beginning with "[op]": everything but the weights themselves.
void check_linear(const char* op, const mlx::core::array& x, int n, int k, const std::optional<mlx::core::array>& bias,
                  const LinearOptions& options);

// a (B, L, C) with 0 in the rows outside `spans` (B, 2).
mlx::core::array keep_spans(const mlx::core::array& a, const mlx::core::array& spans, mlx::core::StreamOrDevice s);

// x W^T of x (..., K) and weight (N, K), both float32, on GPUs and as exact as ops/product makes it.
mlx::core::array rows_times_transposed(const mlx::core::array& x, const mlx::core::array& weight,
                                       const mlx::core::Stream& stream);

mlx::core::array rows_times_transposed(const mlx::core::array& x, const Operand& weight,
                                       const mlx::core::Stream& stream);

// What is left to do with x W^T + bias where MLX multiplied: the low-rank term, rows outside the spans, and the dtype.
mlx::core::array finished_product(mlx::core::array y, bool has_bias, const LinearOptions& options,
                                  mlx::core::Dtype out_dtype, mlx::core::StreamOrDevice s);

}  // namespace mamba::ops
