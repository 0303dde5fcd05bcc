// Where MLX's own products are used.
#include "mamba/base/error.h"
#include "mamba/ops/training_block/training_block.h"

namespace mamba::ops {

namespace mx = mlx::core;

bool can_train_block(const TrainingBlockInputs&, mx::Dtype, mx::StreamOrDevice) {
  return false;
}

TrainingBlockOutputs training_block(const TrainingBlockInputs&, mx::Dtype, mx::StreamOrDevice) {
  throw Error("[training_block] there is no such node on this system");
}

}  // namespace mamba::ops
