// Where products are MLX's, a step is operations of their own.

#include "mamba/base/error.h"
#include "mamba/ops/model_step/cpu_prompt.h"
#include "mamba/ops/model_step/cpu_step.h"

namespace mamba::ops {

bool can_step_on_cpu(const mlx::core::Stream&) {
  return false;
}

std::shared_ptr<const CpuModel> read_for_cpu_step(const CpuModelStepWeights&, const mlx::core::Stream&) {
  throw Error("[model_step] has no kernel for this system's CPUs");
}

ModelStepOutputs cpu_model_step(const mlx::core::array&, const mlx::core::array&, const mlx::core::array&,
                                const std::shared_ptr<const CpuModel>&, const mlx::core::Stream&) {
  throw Error("[model_step] has no kernel for this system's CPUs");
}

mlx::core::array cpu_model_step_now(std::span<const int32_t>, mlx::core::Dtype, mlx::core::array&, mlx::core::array&,
                                    const std::shared_ptr<const CpuModel>&) {
  throw Error("[model_step] has no kernel for this system's CPUs");
}

bool can_take_prompt(const CpuModel&, int, mlx::core::Dtype) {
  return false;
}

PromptOutputs cpu_prompt_block(const mlx::core::array&, const mlx::core::array&, const mlx::core::array&,
                               const std::shared_ptr<const CpuModel>&, size_t, const mlx::core::Stream&) {
  throw Error("[model_step] has no kernel for this system's CPUs");
}

}  // namespace mamba::ops
