// What this machine can do at most, found by doing it: the figures that speeds are compared with.
#pragma once

#include <mlx/dtype.h>

#include <cstdint>

namespace mamba::generate {

// Bytes a second at which `bytes` of memory are read over and over by nothing but loads, with all threads; on a GPU by
// a sum over as many. Takes that much memory for the time. The fastest of several passes.
double measure_reading(uint64_t bytes);

// Operations a second (a multiply-add is two) of a square product too large to wait for memory, in this dtype: by
// `linear`, so on MLX's default device. The fastest of several.
double measure_arithmetic(mlx::core::Dtype dtype);

}  // namespace mamba::generate
