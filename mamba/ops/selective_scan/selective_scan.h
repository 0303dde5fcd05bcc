// The selective state space recurrence of Mamba (Gu and Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective
// State Spaces", sections 2 and 3.2), with everything around it fused in.
//
// For each row b, channel d and position t, with state h of N numbers that starts as initial_state (or 0):
//
//   dt      = softplus(delta[b, t, d] + delta_bias[d])            (softplus only where delta_softplus)
//   h[n]    = exp(dt * A[d, n]) * h[n] + dt * B[b, t, n] * u[b, t, d]
//   y       = sum_n C[b, t, n] * h[n] + D[d] * u[b, t, d]
//   out     = y * silu(z[b, t, d])                                (where z is given)
//
// A is discretised by zero-order hold, B by Euler's rule, as the official implementation does. h, A, dt and all sums
// are float32 whatever the inputs' dtype.
//
// On a CPU these hold bit for bit: one call = any split of it into calls that hand on the state = one step per token;
// the result does not depend on the number of threads, on the other rows of the batch, or on padding outside a span.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>

namespace mamba::ops {

// Where A is mentioned as decaying, it is negative: A = -exp(A_log). Positive values are allowed and may overflow.
struct SelectiveScanInputs {
  mlx::core::array u;                                         // (B, L, D), float32, bfloat16 or float16; called T below
  mlx::core::array delta;                                     // (B, L, D), T: before bias and softplus
  mlx::core::array A;                                         // (D, N), float32
  mlx::core::array B;                                         // (B, L, N), T
  mlx::core::array C;                                         // (B, L, N), T
  std::optional<mlx::core::array> D = std::nullopt;           // (D,), float32 or T
  std::optional<mlx::core::array> z = std::nullopt;           // (B, L, D), T: the gate
  std::optional<mlx::core::array> delta_bias = std::nullopt;  // (D,), float32 or T
  // (B, D, N), float32: h before the first position
  std::optional<mlx::core::array> initial_state = std::nullopt;
  // (B, 2), int32: row b is real in [begin, end), cut to [0, L). Elsewhere y is 0 and the state stays as it is.
  std::optional<mlx::core::array> spans = std::nullopt;
  // (B, L), uint8: h is set to 0 before position t where nonzero, as at the start of a packed document.
  std::optional<mlx::core::array> resets = std::nullopt;
  bool delta_softplus = true;
};

struct SelectiveScanOutputs {
  mlx::core::array y;      // (B, L, D), T
  mlx::core::array state;  // (B, D, N), float32: h after the last real position
};

// Differentiable once, in every floating-point input and through the final state; a second derivative throws Error.
// For the backward pass one state is kept per 64 positions, B * ((L - 1) / 64) * D * N floats.
// Inputs may be slices of wider arrays along the last axis: they are read in place.
// Throws Error with the shapes when they do not agree. B, D and N are at least 1; L may be 0.
SelectiveScanOutputs selective_scan(const SelectiveScanInputs& in, mlx::core::StreamOrDevice s = {});

// One token: u, delta and z are (B, D), B and C are (B, N), y is (B, D). Takes neither spans nor resets.
SelectiveScanOutputs selective_scan_step(const SelectiveScanInputs& in, mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
