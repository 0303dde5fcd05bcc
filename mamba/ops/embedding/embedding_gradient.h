// The gradient of an embedding table (N, K) from which rows were looked up by token id:
//
//   out[n] = base[n] + sum over i with tokens[i] = n of dy[i]        (N, K)
//
// `base` is the gradient that reaches the table by another way: through the output projection where it is tied, or
// nothing. Making the sum at once spares a second array of the table's size and the passes that add the two.
//
// Sums are float32, rounded once, in the same order every time: on a CPU that of i, whatever the number of threads. Not
// differentiable.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>

namespace mamba::ops {

//   tokens  (...) int32, each in [0, rows): others are left out
//   dy      (..., K) float32, bfloat16 or float16
//   base    (rows, K) float32, bfloat16 or float16. On a CPU one of the result's dtype that nobody else holds becomes
//           the result.
//   dtype   of the result
// Throws Error when shapes or dtypes do not fit.
mlx::core::array embedding_gradient(const mlx::core::array& tokens, const mlx::core::array& dy, int rows,
                                    std::optional<mlx::core::array> base = std::nullopt,
                                    mlx::core::Dtype dtype = mlx::core::float32, mlx::core::StreamOrDevice s = {});

// The same in plain MLX operations: the specification, and the oracle of the tests.
mlx::core::array embedding_gradient_reference(const mlx::core::array& tokens, const mlx::core::array& dy, int rows,
                                              const std::optional<mlx::core::array>& base = std::nullopt,
                                              mlx::core::Dtype dtype = mlx::core::float32,
                                              mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
