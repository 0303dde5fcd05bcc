// rms_norm_add for models that write out their gradients themselves: its result is made once more instead of being
// kept.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

namespace mamba::ops {

// y of rms_norm_add(), in its dtype and to the bit, from the sum that it gave. Not differentiable.
mlx::core::array rms_norm_again(const mlx::core::array& sum,     // (..., D)
                                const mlx::core::array& weight,  // (D,)
                                float eps, mlx::core::Dtype dtype, mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
