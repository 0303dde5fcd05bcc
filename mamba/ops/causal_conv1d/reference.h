// causal_conv1d as plain MLX operations: the specification, the oracle of the tests, and what runs where there is no
// kernel.
#pragma once

#include "mamba/ops/causal_conv1d/causal_conv1d.h"

namespace mamba::ops {

// As causal_conv1d; works in float64 when the inputs are float64.
CausalConv1dOutputs causal_conv1d_reference(const CausalConv1dInputs& in, mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
