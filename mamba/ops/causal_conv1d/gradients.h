// causal_conv1d for models that write out their gradients themselves. On GPUs. The states before and after are
// constants here: no gradient passes through them.
#pragma once

#include "mamba/ops/causal_conv1d/causal_conv1d.h"

namespace mamba::ops {

struct CausalConv1dGradients {
  mlx::core::array x;       // (B, L, D), T
  mlx::core::array weight;  // (D, K)
  mlx::core::array bias;    // (D,); undefined where there is none
};

// Whether there are kernels for `taps` of them on this stream.
bool has_causal_conv1d_gradients(int taps, mlx::core::StreamOrDevice s = {});

// causal_conv1d() as a node without a gradient.
CausalConv1dOutputs causal_conv1d_alone(const CausalConv1dInputs& in, mlx::core::StreamOrDevice s = {});

// `gy`: the gradient of y.
CausalConv1dGradients causal_conv1d_gradients(const CausalConv1dInputs& in, const mlx::core::array& gy,
                                              mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
