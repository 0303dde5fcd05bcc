// causal_conv1d on GPUs: the launches of the kernels in gpu_*.h. Private to this folder; arguments are checked by the
// caller. CPU streams serve tests (ops/gpu/kernel.h).
#pragma once

#include "mamba/ops/causal_conv1d/causal_conv1d.h"
#include "mamba/ops/causal_conv1d/gradients.h"

namespace mamba::ops::conv {

// More taps than this have no kernel: a window lies in registers.
constexpr int kMaxGpuTaps = 16;

CausalConv1dOutputs gpu_conv(const CausalConv1dInputs& in, const mlx::core::Stream& stream);
CausalConv1dOutputs gpu_step(const CausalConv1dInputs& in, const mlx::core::Stream& stream);

CausalConv1dOutputs gpu_conv_alone(const CausalConv1dInputs& in, const mlx::core::Stream& stream);
CausalConv1dGradients gpu_conv_gradients(const CausalConv1dInputs& in, const mlx::core::array& gy,
                                         const mlx::core::Stream& stream);

}  // namespace mamba::ops::conv
