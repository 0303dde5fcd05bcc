// rms_norm on GPUs: the launches of the kernels in gpu_*.h. Private to this folder; arguments are checked by the
// caller. CPU streams serve tests (ops/gpu/kernel.h).
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <optional>
#include <utility>

namespace mamba::ops::norm {

// Wider rows have no kernel: a row lies in a group's registers.
constexpr int kMaxGpuChannels = 16384;

// {y, the sum in `sum_dtype`}; without `sum_dtype` there is neither residual nor sum, and the second is x.
std::pair<mlx::core::array, mlx::core::array> gpu_norm(const mlx::core::array& x,
                                                       const std::optional<mlx::core::array>& residual,
                                                       const mlx::core::array& weight, float eps,
                                                       std::optional<mlx::core::Dtype> sum_dtype,
                                                       const mlx::core::Stream& stream);

// y in `dtype` of rows whose sum is made. Not differentiable.
mlx::core::array gpu_norm_again(const mlx::core::array& sum, const mlx::core::array& weight, float eps,
                                mlx::core::Dtype dtype, const mlx::core::Stream& stream);

}  // namespace mamba::ops::norm
