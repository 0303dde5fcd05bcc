// A mixer whose gradients are written out, for training on GPUs: little is kept for the backward pass and little is
// launched.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <functional>

#include "mamba/models/block.h"

namespace mamba::models {

// Whether train_mixer() can stand for the mixer: on GPUs, without adapters, quantised weights, biases of projections or
// spans, with all matrices in x's dtype.
bool can_train_mixer(const Mixer& mixer, const mlx::core::array& x, const BlockOptions& options,
                     mlx::core::StreamOrDevice s = {});

// What the mixer makes of x (B, L, d_model); moves `state` on. The states are constants: no gradient passes through
// them. `x_again` gives x once more, for the backward pass, so that it need not be kept.
mlx::core::array train_mixer(const Mixer& mixer, const DerivedParameters& derived, const mlx::core::array& x,
                             LayerState& state, const BlockOptions& options,
                             const std::function<mlx::core::array()>& x_again, mlx::core::StreamOrDevice s = {});

}  // namespace mamba::models
