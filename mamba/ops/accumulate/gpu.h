// accumulate on GPUs. Private to this folder; arguments are checked by the caller. CPU streams serve tests
// (ops/gpu/kernel.h).
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

namespace mamba::ops::accumulate_detail {

mlx::core::array gpu_add(const mlx::core::array& sum, const mlx::core::array& value, const mlx::core::Stream& stream);

}  // namespace mamba::ops::accumulate_detail
