// model_step on CPUs (model_step.h has what it is): one node of the graph, in which threads walk through all blocks and
// the logits together. What a step costs there is to read the weights.
//
// Blocks are those of ops/block_step/cpu_step.h, all of one shape, and the weights of the logits may be quantised, too.
// A sequence's result is the same to the last bit whatever the others are and on any number of threads.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "mamba/ops/block_step/cpu_step.h"
#include "mamba/ops/model_step/model_step.h"

namespace mamba::ops {

struct CpuModelStepWeights {
  std::vector<CpuStepWeights> blocks;  // at least one
  mlx::core::array norm_f;
  float eps;
  StepMatrix output;
  std::optional<StepMatrix> embeddings = {};  // for cpu_model_step_now()
};

// Whether `stream` has it: CPU streams under Linux.
bool can_step_on_cpu(const mlx::core::Stream& stream);

// Weights as kernels read them: evaluated, and checked once. Constants: a step is not differentiable.
class CpuModel;
std::shared_ptr<const CpuModel> read_for_cpu_step(const CpuModelStepWeights& weights, const mlx::core::Stream& stream);

// h (B, M) float32 or T: the tokens' embeddings. conv (L, B, K - 1, D) T, ssm (L, B, D, N) float32. States are written
// in place where nobody else holds them. Throws Error where shapes or dtypes do not fit.
ModelStepOutputs cpu_model_step(const mlx::core::array& h, const mlx::core::array& conv, const mlx::core::array& ssm,
                                const std::shared_ptr<const CpuModel>& model, const mlx::core::Stream& stream);

// The same at once, on the calling thread: a graph's evaluation wakes two others, one after the other. The logits after
// `tokens` (B), each in [0, V), whose embeddings are rounded to T and then `residual` as h is above; conv and ssm are
// evaluated where they are not, and become the states after them.
mlx::core::array cpu_model_step_now(std::span<const int32_t> tokens, mlx::core::Dtype residual, mlx::core::array& conv,
                                    mlx::core::array& ssm, const std::shared_ptr<const CpuModel>& model);

// cpu_model_step() in operations of their own: the specification.
ModelStepOutputs cpu_model_step_reference(const mlx::core::array& h, const mlx::core::array& conv,
                                          const mlx::core::array& ssm, const CpuModelStepWeights& weights,
                                          const mlx::core::Stream& stream);

}  // namespace mamba::ops
