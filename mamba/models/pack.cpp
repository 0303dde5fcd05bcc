#include "mamba/models/pack.h"

#include <string>

#include "mamba/models/weight_block.h"

namespace mamba::models {

namespace mx = mlx::core;

namespace {

// Of floats. Larger ones are moved by move_to_large_pages() where that pays, and are not to be in memory twice.
constexpr size_t kSmall = size_t{8} << 20;

bool is_to_pack(const nn::Matrix& matrix) {
  return matrix.quantized && !matrix.packed;
}

bool is_to_move(const nn::Matrix& matrix) {
  return !matrix.quantized && matrix.weight.nbytes() <= kSmall;
}

}  // namespace

void pack_matrices(MambaLM& model) {
  size_t codes = 0;
  size_t floats = 0;
  model.visit_matrices("", [&](const std::string&, nn::Matrix& matrix) {
    if (is_to_pack(matrix)) {
      codes += WeightBlock::room(ops::packed_bytes(matrix.parts()));
    } else if (is_to_move(matrix)) {
      floats += WeightBlock::room(matrix.weight.nbytes());
    }
  });
  if (codes == 0) {
    return;
  }
  WeightBlock block(codes + floats);
  model.visit_matrices("", [&](const std::string&, nn::Matrix& matrix) {
    if (is_to_move(matrix)) {
      matrix.weight = block.take_copy(matrix.weight);
    }
    if (!is_to_pack(matrix)) {
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
