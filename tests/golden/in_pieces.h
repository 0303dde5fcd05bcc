// What the golden tests of whole models share.
#pragma once

#include <mlx/ops.h>

#include <algorithm>
#include <vector>

#include "mamba/models/mamba.h"

namespace mamba::testing {

inline float largest_difference(const mlx::core::array& a, const mlx::core::array& b) {
  namespace mx = mlx::core;
  return mx::max(mx::abs(mx::subtract(a, b))).item<float>();
}

// Logits of `tokens` (B, L), fed in pieces of `step`.
inline mlx::core::array in_pieces(const models::MambaLM& model, const mlx::core::array& tokens, int step) {
  namespace mx = mlx::core;
  models::State state = model.initial_state(tokens.shape(0));
  std::vector<mx::array> parts;
  for (int first = 0; first < tokens.shape(1); first += step) {
    const int last = std::min(tokens.shape(1), first + step);
    parts.push_back(model.forward(mx::contiguous(mx::slice(tokens, {0, first}, {tokens.shape(0), last})), state));
  }
  return mx::concatenate(parts, 1);
}

}  // namespace mamba::testing
