#include "mamba/models/weight_block.h"

#include <mlx/ops.h>

#include <cstring>

#include "mamba/base/memory.h"

namespace mamba::models {

namespace mx = mlx::core;

namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kInFront = kAlignment;  // io::array_in_block may look there

}  // namespace

size_t WeightBlock::room(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

WeightBlock::WeightBlock(size_t bytes)
    : memory_(map_memory(kInFront + bytes)),
      block_{.owner = memory_, .data = memory_.get(), .size = kInFront + bytes, .mapped = false},
      offset_(kInFront) {}

mx::array WeightBlock::take(const mx::Shape& shape, mx::Dtype dtype) {
  mx::array weight = io::array_in_block(block_, offset_, shape, dtype);
  offset_ += room(weight.nbytes());
  return weight;
}

mx::array WeightBlock::take_copy(const mx::array& weight) {
  mx::array rows = mx::contiguous(weight);
  rows.eval();
  std::memcpy(next(), rows.data<char>(), rows.nbytes());
  return take(rows.shape(), rows.dtype());
}

}  // namespace mamba::models
