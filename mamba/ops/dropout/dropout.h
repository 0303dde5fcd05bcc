// Dropout (Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting"), scaled so that
// the mean stays:
//
//   y_i = x_i / (1 - rate)   where hash(seed, i) >= rate 2^32
//   y_i = 0                  elsewhere
//
// hash is 32 mixed bits of the seed and of the element's place in row-major order. So nothing is stored for the
// backward pass, and a forward pass that is computed again drops the same elements: the same seed gives the same mask,
// whatever the dtype, the device and the number of threads.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <cstdint>

namespace mamba::ops {

// x: any shape of fewer than 2^32 elements, float32, bfloat16 or float16; 0 <= rate < 1. Rate 0 gives x itself.
// Differentiable any number of times. Throws Error with the values when they do not fit.
mlx::core::array dropout(const mlx::core::array& x, double rate, uint64_t seed, mlx::core::StreamOrDevice s = {});

// The same in plain MLX operations: the specification, and what GPUs run.
mlx::core::array dropout_reference(const mlx::core::array& x, double rate, uint64_t seed,
                                   mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
