// quantized_linear: y = x W^T + bias (+ u V^T), as ops/linear, with W in MLX's affine format.
//
// W (N, K) is held as codes of 4 or 8 bits in groups of 32, 64 or 128 neighbours along K; element k of row n is
//
//   W[n, k] = scales[n, k / group_size] * code + biases[n, k / group_size]        computed in float32
//
//   codes   (N, K * bits / 32)   uint32; code k of a row is bits [bits * k, bits * (k + 1)), the lowest first
//   scales  (N, K / group_size)  float32, bfloat16 or float16
//   biases  (N, K / group_size)  the scales' dtype; no bias of the layer, but what the format adds
//   x, bias, y, options          as in ops/linear/linear.h
//
// Products and sums are in float32, and the result is that of linear() with the dequantised weights, to the rounding of
// float32 sums. Two exceptions, both of bfloat16: many rows may be multiplied through oneDNN, and then the dequantised
// weights are rounded to bfloat16 like x; and few rows may be cut into integers (packed weights, few_bytes-inl.h),
// which is exact but for elements smaller than a 64th of the largest in their group: those may be off by 2^-15 of the
// largest, a 64th of what rounding that one to bfloat16 may have done.
//
// Sequences and spans as in linear: on CPUs the result of a row depends on its sequence's real rows alone, to the last
// bit.
//
// Differentiable in x, u and V, once. W and bias are constants: their gradients are zeros.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>

#include "mamba/ops/linear/linear.h"

namespace mamba::ops {

struct QuantizedWeight {
  mlx::core::array codes;   // (N, K * bits / 32) uint32
  mlx::core::array scales;  // (N, K / group_size)
  mlx::core::array biases;  // (N, K / group_size)
  int group_size = 64;
  int bits = 8;

  int rows() const { return codes.shape(0); }                 // N
  int columns() const { return codes.shape(1) * 32 / bits; }  // K
};

// Throws Error "[op] ..." unless bits, group size, shapes and dtypes fit each other.
void check_quantized(const char* op, const QuantizedWeight& weight);

// mx::quantize of (N, K) floats, K a multiple of the group size; scales and biases in the weights' dtype.
QuantizedWeight quantize(const mlx::core::array& weight, int group_size, int bits, mlx::core::StreamOrDevice s = {});

// (N, K) in `dtype`, the scales' by default: float32, bfloat16 or float16.
mlx::core::array dequantize(const QuantizedWeight& weight, std::optional<mlx::core::Dtype> dtype = {},
                            mlx::core::StreamOrDevice s = {});

// Rows `indices` (...) int32, each in [0, N), of W -> (..., K) in `dtype`, the scales' by default. What an embedding
// looks up.
mlx::core::array quantized_rows(const QuantizedWeight& weight, const mlx::core::array& indices,
                                std::optional<mlx::core::Dtype> dtype = {}, mlx::core::StreamOrDevice s = {});

// Throws Error when shapes or dtypes do not fit. On a CPU under Linux our own kernels; else mx::quantized_matmul.
mlx::core::array quantized_linear(const mlx::core::array& x, const QuantizedWeight& weight,
                                  const std::optional<mlx::core::array>& bias = {}, const LinearOptions& options = {},
                                  mlx::core::StreamOrDevice s = {});

// linear_reference with dequantised weights: the specification, and the oracle of the tests.
mlx::core::array quantized_linear_reference(const mlx::core::array& x, const QuantizedWeight& weight,
                                            const std::optional<mlx::core::array>& bias = {},
                                            const LinearOptions& options = {}, mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
