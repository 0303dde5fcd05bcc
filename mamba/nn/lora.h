// Low-rank adaptation of a linear layer (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"):
//
//   y = x W^T + b + scale (x A^T) B^T
//
// W and b stay as they are; A and B are what is trained.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <cstdint>
#include <optional>
#include <string>

#include "mamba/nn/parameters.h"
#include "mamba/ops/linear/linear.h"

namespace mamba::nn {

struct Lora {
  mlx::core::array A = unset();  // (r, in), float32, bfloat16 or float16, whatever the layer's weights are
  mlx::core::array B = unset();  // (out, r), likewise
  float scale = 1;               // alpha / r, or alpha / sqrt(r)

  // A ~ U(-1/sqrt(in), 1/sqrt(in)), which is He's rule with a = sqrt(5); B = 0, so that nothing changes yet. Float32.
  static Lora initial(int in, int out, int rank, float scale, const mlx::core::array& key);

  int rank() const { return A.shape(0); }

  // scale (x A^T) B^T for ops::linear to add. x (..., in). `spans`: ops/linear/linear.h.
  ops::LowRankTerm term(const mlx::core::array& x, const std::optional<mlx::core::array>& spans,
                        mlx::core::StreamOrDevice s = {}) const;

  // scale B A: (out, in) float32.
  mlx::core::array product(mlx::core::StreamOrDevice s = {}) const;

  // "lora_A.weight" and "lora_B.weight".
  void visit(const std::string& path, const ParameterVisitor& visitor);
};

}  // namespace mamba::nn
