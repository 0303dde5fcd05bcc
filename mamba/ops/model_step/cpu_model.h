// A model's weights as the kernels of steps and prompts read them. Private to this folder.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/ops/block_step/cpu_block.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/model_step/cpu_step.h"

namespace mamba::ops {

class CpuModel {
 public:
  CpuModel(const CpuModelStepWeights& weights, const mlx::core::Stream& stream)
      : norm_f(weights.norm_f, weights.eps, stream),
        output("model_step", "output", weights.output, -1, weights.norm_f.shape(0), stream) {
    check(!weights.blocks.empty(), "[model_step] there are no blocks");
    blocks.reserve(weights.blocks.size());
    for (const CpuStepWeights& block : weights.blocks) {
      blocks.emplace_back("model_step", block, stream);
      const step::CpuBlock& first = blocks.front();
      const step::CpuBlock& last = blocks.back();
      check(first.width() == last.width() && first.channels() == last.channels() && first.states() == last.states() &&
                first.taps() == last.taps() && first.rank() == last.rank(),
            "[model_step] blocks 0 and {} have different shapes", blocks.size() - 1);
    }
    if (weights.embeddings) {
      embeddings.emplace("model_step", "embeddings", *weights.embeddings, -1, blocks.front().width(), stream);
    }
    check_shape("model_step", "norm_f", weights.norm_f, {blocks.front().width()});
  }

  int64_t few_workspace(int64_t batch) const {
    int64_t floats = output->few_workspace(batch);
    for (const step::CpuBlock& block : blocks) {
      for (const step::CpuMatrix* matrix : {&block.in_proj, &block.x_proj, &block.dt_proj, &block.out_proj}) {
        floats = std::max(floats, (*matrix)->few_workspace(batch));
      }
    }
    return floats;
  }

  std::vector<step::CpuBlock> blocks;
  step::CpuNorm norm_f;
  step::CpuMatrix output;
  std::optional<step::CpuMatrix> embeddings;
};

}  // namespace mamba::ops
