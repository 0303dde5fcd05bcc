// A part of a long array as an array of its own, in one node of the graph and without a copy.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <cstdint>

namespace mamba::ops::gpu {

// Elements of `flat`, whose elements lie one after another, from `begin` on. Not differentiable. It shares the memory
// of `flat`.
mlx::core::array part_of(const mlx::core::array& flat, int64_t begin, mlx::core::Shape shape,
                         const mlx::core::Stream& stream);

}  // namespace mamba::ops::gpu
