// Depthwise causal convolution over time, with bias and SiLU fused in: the short convolution in front of Mamba's scan
// (Gu and Dao 2023, figure 3).
//
//   y[b, t, d] = act(bias[d] + sum_{k < K} weight[d, k] * x[b, t - (K - 1) + k, d])
//
// with act = silu or the identity, and x[b, -(K - 1) ... -1, d] = initial_state[b, 0 ... K - 2, d] (or 0).
// Sums are float32 whatever the inputs' dtype.
//
// On a CPU these hold bit for bit: one call = any split of it into calls that hand on the state = one step per token;
// the result does not depend on the number of threads, on the other rows of the batch, or on padding outside a span.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>

namespace mamba::ops {

struct CausalConv1dInputs {
  mlx::core::array x;                                   // (B, L, D), float32, bfloat16 or float16; called T below
  mlx::core::array weight;                              // (D, K), float32 or T
  std::optional<mlx::core::array> bias = std::nullopt;  // (D,), float32 or T
  // (B, K - 1, D), T: the inputs before the first, oldest first
  std::optional<mlx::core::array> initial_state = std::nullopt;
  // (B, 2), int32: row b is real in [begin, end), cut to [0, L). The inputs before `begin` are those of initial_state;
  // outside the span y is 0.
  std::optional<mlx::core::array> spans = std::nullopt;
  // (B, L), uint8: where nonzero, position t sees nothing before itself, as at the start of a packed document.
  std::optional<mlx::core::array> resets = std::nullopt;
  bool silu = true;
};

struct CausalConv1dOutputs {
  mlx::core::array y;  // (B, L, D), T
  // (B, K - 1, D), T: the last K - 1 real inputs, with those of initial_state before them and with zeros for what a
  // reset hid, so that the next call continues this one.
  mlx::core::array state;
};

// Differentiable once, in x, weight, bias and initial_state and through the final state.
// x may be a slice of a wider array along the last axis: it is read in place.
// Throws Error with the shapes when they do not agree. B, D and K are at least 1; L may be 0.
CausalConv1dOutputs causal_conv1d(const CausalConv1dInputs& in, mlx::core::StreamOrDevice s = {});

// One token: x and y are (B, D). Takes neither spans nor resets.
CausalConv1dOutputs causal_conv1d_step(const CausalConv1dInputs& in, mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
