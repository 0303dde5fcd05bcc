// For tests of block_step: launches of other shapes.
#pragma once

#include "mamba/ops/block_step/block_step.h"

namespace mamba::ops::step {

// `threads`: of a group; 0: as the device wants them.
StepOutputs mixer(const mlx::core::array& xz, const mlx::core::array& conv, const mlx::core::array& ssm,
                  const MixerStepWeights& weights, int threads, const mlx::core::Stream& stream);

}  // namespace mamba::ops::step
