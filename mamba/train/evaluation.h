// How well a model predicts held-out windows.
#pragma once

#include <cstdint>
#include <functional>

#include "mamba/models/mamba.h"
#include "mamba/train/data/windows.h"

namespace mamba::train {

struct EvaluationOptions {
  int64_t batch_size = 8;     // windows at a time
  int64_t most_windows = -1;  // the first ones; -1: all
  bool carry_state = false;   // walks the windows one behind the other, each from the state that the last one left
};

// Mean cross-entropy of the targets that count, in nats per token. NaN where none does. `pause` is called between
// batches and may throw.
double held_out_loss(const models::MambaLM& model, const Windows& windows, const EvaluationOptions& options = {},
                     const std::function<void()>& pause = {});

}  // namespace mamba::train
