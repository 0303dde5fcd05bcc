#include "mamba/models/pack.h"

#include <string>
#include <utility>

#include "mamba/base/memory.h"
#include "mamba/io/block.h"

namespace mamba::models {

namespace mx = mlx::core;

namespace {

constexpr size_t kAlignment = 64;

size_t aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

void pack_matrices(MambaLM& model) {
  size_t total = 0;
  model.visit_matrices("", [&](const std::string&, nn::Matrix& matrix) {
    if (matrix.quantized && !matrix.packed) {
      total += aligned(ops::packed_bytes(matrix.parts()));
    }
  });
  if (total == 0) {
    return;
  }
  const size_t room = total + kAlignment;  // in front, as io::array_in_block may look there
  const std::shared_ptr<std::byte> memory = map_memory(room);
  const io::Block block{.owner = memory, .data = memory.get(), .size = room, .mapped = false};
  size_t offset = kAlignment;
  model.visit_matrices("", [&](const std::string&, nn::Matrix& matrix) {
    if (!matrix.quantized || matrix.packed) {
      return;
    }
    const ops::QuantizedWeight parts = matrix.parts();
    const size_t bytes = ops::packed_bytes(parts);
    ops::pack(parts, memory.get() + offset);
    matrix.set_packed({.tiles = io::array_in_block(block, offset, {static_cast<int>(bytes)}, mx::uint8),
                       .shape = {parts.rows(), parts.columns()},
                       .dtype = parts.scales.dtype(),
                       .group_size = parts.group_size,
                       .bits = parts.bits});
    offset += aligned(bytes);
  });
}

}  // namespace mamba::models
