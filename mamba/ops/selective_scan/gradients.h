// selective_scan for models that write out their gradients themselves, to choose what is kept for the backward pass and
// what is computed again. On GPUs. The states before and after are constants here: no gradient passes through them.
#pragma once

#include "mamba/ops/selective_scan/selective_scan.h"

namespace mamba::ops {

struct SelectiveScanKept {
  mlx::core::array y;      // (B, L, D), T
  mlx::core::array state;  // (B, D, N) float32
  // What selective_scan_gradients() needs of the states on the way, and what depends on all of it having been written.
  mlx::core::array kept, kept_done;
};

struct SelectiveScanGradients {
  mlx::core::array u;           // (B, L, D), T
  mlx::core::array delta;       // (B, L, D), T
  mlx::core::array A;           // (D, N) float32
  mlx::core::array BC;          // (B, L, 2 N), T: that of B, then that of C
  mlx::core::array D;           // (D,)
  mlx::core::array z;           // (B, L, D), T
  mlx::core::array delta_bias;  // (D,)
  mlx::core::array y;           // (B, L, D), T: the output once more, which need not be kept then
};

// Whether there are kernels for `states` of them on this stream.
bool has_selective_scan_gradients(int states, mlx::core::StreamOrDevice s = {});

// As selective_scan(), with D, z and delta_bias given.
SelectiveScanKept selective_scan_kept(const SelectiveScanInputs& in, mlx::core::StreamOrDevice s = {});

// `gy`: the gradient of y. What was kept is used up, since its memory is used for something else: it serves one call.
SelectiveScanGradients selective_scan_gradients(const SelectiveScanInputs& in, const mlx::core::array& gy,
                                                const mlx::core::array& kept, const mlx::core::array& kept_done,
                                                mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
