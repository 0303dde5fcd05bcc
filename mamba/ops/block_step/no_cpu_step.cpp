// Where products are MLX's, a step is operations of their own.

#include "mamba/base/error.h"
#include "mamba/ops/block_step/cpu_step.h"

namespace mamba::ops {

bool can_step_on_cpu(const mlx::core::Stream&) {
  return false;
}

StepOutputs cpu_block_step(const mlx::core::array&, const mlx::core::array&, const mlx::core::array&,
                           const CpuStepWeights&, const mlx::core::Stream&) {
  throw Error("[block_step] has no kernel for this system's CPUs");
}

}  // namespace mamba::ops
