// linear: y = x W^T + bias (+ u V^T), the projection layers of every model.
//
//   x     (..., K)   float32, bfloat16 or float16; the last axis contiguous is read in place, rows at any distance
//   W     (N, K)     float32, bfloat16 or float16, as checkpoints store it; need not be x's dtype
//   bias  (N,)       the same dtypes
//   y     (..., N)   x's dtype, or options.out_dtype
//
// Products and sums are in float32 whatever the dtypes; y is rounded once, at the end.
//
// Sequences. x (..., L, K) holds sequences of L rows: the axes before the last two count sequences, and one or two
// axes are a single sequence. `spans` (B, 2) int32 says which rows [begin, end) of each sequence of x (B, L, K) are
// real; the ends are clamped to [0, L]. The other rows of y are 0 and cost nothing, whatever x holds there.
//
// On CPUs the result of a row depends on its sequence's real rows alone, to the last bit: not on the other sequences,
// on padding or on the number of threads. So a batch gives each sequence what it gets alone. (A sequence of few rows
// takes another kernel than one of many, so feeding a sequence in pieces agrees to rounding only.)
//
// A low-rank term u V^T, u (..., R) float32 and V (N, R), is added before y is rounded: what an adapter adds to its
// layer. (Where MLX multiplies, a 16-bit x W^T is rounded before, too.)
//
// Differentiable in x, W, bias, u and V, once: the gradients are not differentiable themselves.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>

namespace mamba::ops {

class Operand;  // ops/product

struct LowRankTerm {
  mlx::core::array u;  // (..., R) float32: as many rows as x
  mlx::core::array V;  // (N, R) float32, bfloat16 or float16
};

struct LinearOptions {
  std::optional<mlx::core::array> spans = {};      // (B, 2) int32
  std::optional<mlx::core::Dtype> out_dtype = {};  // x's dtype or float32
  std::optional<LowRankTerm> low_rank = {};
  // W with what products on GPUs take of it, made before; null: it is made anew.
  const Operand* operand = nullptr;
  bool short_weight = false;  // W lies in float32, but its numbers have 16 bits: GPUs need one product then, not three
};

// Throws Error when shapes or dtypes do not fit. On a CPU under Linux our own kernels and oneDNN; else mx::matmul.
mlx::core::array linear(const mlx::core::array& x, const mlx::core::array& weight,
                        const std::optional<mlx::core::array>& bias = {}, const LinearOptions& options = {},
                        mlx::core::StreamOrDevice s = {});

// The same in plain MLX operations, everything in float32: the specification, and the oracle of the tests.
mlx::core::array linear_reference(const mlx::core::array& x, const mlx::core::array& weight,
                                  const std::optional<mlx::core::array>& bias = {}, const LinearOptions& options = {},
                                  mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
