// The loss of a language model on a batch, and its gradients.
#pragma once

#include <mlx/array.h>

#include <utility>
#include <vector>

#include "mamba/models/mamba.h"
#include "mamba/train/data/batches.h"
#include "mamba/train/trainable.h"

namespace mamba::train {

struct ObjectiveOptions {
  bool recompute = false;        // keep only each block's input, and compute the rest again in the backward pass
  models::Dropout dropout = {};  // masks follow from the seed: a batch of its own needs a seed of its own
};

struct Gradients {
  mlx::core::array loss;                 // () float32: the sum of the targets' cross-entropies, divided by `divisor`
  std::vector<mlx::core::array> values;  // one for each trainable array, in its order and shape
  models::State state;                   // after the batch; its gradient stops here
  // On GPUs, all of these and what leads to them, in the order that needs least memory (sender.h).
  std::vector<std::vector<mlx::core::array>> order = {};
  size_t sent = 0;  // so many of these are
};

// Loss and gradients of `batch` from `state`, as a graph that is not evaluated. Gradients have the dtype of their
// parameter, except that of the embeddings, which is float32.
Gradients loss_and_gradients(models::MambaLM& model, const Trainable& trainable, const Batch& batch,
                             const models::State& state, double divisor, const ObjectiveOptions& options = {});

// The sum of the cross-entropies alone, () float32, and the state after the batch.
std::pair<mlx::core::array, models::State> loss_sum(const models::MambaLM& model, const Batch& batch,
                                                    const models::State& state);

}  // namespace mamba::train
