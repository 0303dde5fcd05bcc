#include "mamba/models/pack.h"

#include <string>

#include "mamba/models/weight_block.h"

namespace mamba::models {

namespace mx = mlx::core;

void pack_matrices(MambaLM& model) {
  size_t total = 0;
  model.visit_matrices("", [&](const std::string&, nn::Matrix& matrix) {
    if (matrix.quantized && !matrix.packed) {
      total += WeightBlock::room(ops::packed_bytes(matrix.parts()));
    }
  });
  if (total == 0) {
    return;
  }
  WeightBlock block(total);
  model.visit_matrices("", [&](const std::string&, nn::Matrix& matrix) {
    if (!matrix.quantized || matrix.packed) {
      return;
    }
    const ops::QuantizedWeight parts = matrix.parts();
    const size_t bytes = ops::packed_bytes(parts);
    ops::pack(parts, block.next());
    matrix.set_packed({.tiles = block.take({static_cast<int>(bytes)}, mx::uint8),
                       .shape = {parts.rows(), parts.columns()},
                       .dtype = parts.scales.dtype(),
                       .group_size = parts.group_size,
                       .bits = parts.bits});
  });
}

}  // namespace mamba::models
