// global_norm on GPUs. Private to this folder. CPU streams serve tests (ops/gpu/kernel.h).
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <vector>

namespace mamba::ops::global_norm_detail {

mlx::core::array gpu_norm(const std::vector<mlx::core::array>& arrays, const mlx::core::Stream& stream);

}  // namespace mamba::ops::global_norm_detail
