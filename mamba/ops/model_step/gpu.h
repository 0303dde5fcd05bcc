// For tests of model_step: launches of other shapes.
#pragma once

#include "mamba/ops/model_step/model_step.h"

namespace mamba::ops::step {

// Groups and threads of a launch, and how it cuts its products (gpu_step.h). No groups: as the device and the sizes
// want it.
struct ModelLaunch {
  int groups = 0;
  int threads = 0;
  int few = 0;
  int in_row_tiles = 0;
  int in_row_parts = 0;
  int in_tiles = 0;
  int out_row_tiles = 0;
  int out_row_parts = 0;
  int out_tiles = 0;
  int word_tiles = 0;
  int word_row_tiles = 0;
  int sequences = 0;
};

// Of those that are compiled for the host (gpu_host.cpp), where fibers stand for threads, the one for few sequences.
constexpr ModelLaunch kHostLaunch = {3, 64, 8, 1, 1, 1, 1, 1, 3, 2, 1, 1};

// That of a device with so many multiprocessors.
ModelLaunch best_launch(const ModelStepWeights& weights, int batch, int groups);

ModelStepOutputs model(const mlx::core::array& tokens, const mlx::core::array& conv, const mlx::core::array& ssm,
                       const ModelStepWeights& weights, const ModelLaunch& launch, const mlx::core::Stream& stream);

}  // namespace mamba::ops::step
