// Blelloch's parallel scan (1990, "Prefix Sums and Their Applications") of the same recurrence, in plain MLX
// operations: a second oracle for tests, which adds up in another order than reference and kernel, and the other side
// of a comparison. Not part of the library. docs/selective_scan.md derives it.
#pragma once

#include "mamba/ops/selective_scan/selective_scan.h"

namespace mamba::ops {

// h[t] = a[t] h[t - 1] + b[t] with h[-1] = first, for all t at once, in 2 ceil(log2 L) levels and O(L) operations.
// a and b: (B, L, M); first: (B, M); the result: (B, L, M). All of one floating dtype. L may be 0.
mlx::core::array linear_recurrence_blelloch(const mlx::core::array& a, const mlx::core::array& b,
                                            const mlx::core::array& first, mlx::core::StreamOrDevice s = {});

// As selective_scan_reference, float64 included.
SelectiveScanOutputs selective_scan_blelloch(const SelectiveScanInputs& in, mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
