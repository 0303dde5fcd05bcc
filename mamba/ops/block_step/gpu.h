// For tests of block_step: launches of other shapes.
#pragma once

#include "mamba/ops/block_step/block_step.h"

namespace mamba::ops::step {

// Groups and threads of a launch; 0: as the device wants them.
struct Launch {
  int groups = 0;
  int threads = 0;
};

StepOutputs whole(const mlx::core::array& h, const mlx::core::array& conv, const mlx::core::array& ssm,
                  const BlockStepWeights& weights, const std::optional<mlx::core::array>& ahead, const Launch& launch,
                  const mlx::core::Stream& stream);
StepOutputs mixer(const mlx::core::array& xz, const mlx::core::array& conv, const mlx::core::array& ssm,
                  const MixerStepWeights& weights, const Launch& launch, const mlx::core::Stream& stream);
mlx::core::array logits(const mlx::core::array& h, const mlx::core::array& norm, float eps,
                        const mlx::core::array& weight, const Launch& launch, const mlx::core::Stream& stream);

}  // namespace mamba::ops::step
