// embedding_gradient on GPUs. Private to this folder; arguments are checked by the caller. CPU streams serve tests
// (ops/gpu/kernel.h).
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <optional>

namespace mamba::ops::embedding_detail {

mlx::core::array gpu_gradient(const mlx::core::array& tokens, const mlx::core::array& dy, int rows,
                              const std::optional<mlx::core::array>& base, mlx::core::Dtype dtype,
                              const mlx::core::Stream& stream);

}  // namespace mamba::ops::embedding_detail
