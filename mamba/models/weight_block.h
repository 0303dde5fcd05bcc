// Memory of this process' own for weights that lie side by side, in large pages.
#pragma once

#include <mlx/array.h>

#include <cstddef>
#include <memory>

#include "mamba/io/block.h"

namespace mamba::models {

class WeightBlock {
 public:
  // What `bytes` take up in a block.
  static size_t room(size_t bytes);

  // For weights that take up `bytes` in all. Throws Error where there is no such memory.
  explicit WeightBlock(size_t bytes);

  // Where the next weight's bytes belong.
  std::byte* next() const { return memory_.get() + offset_; }
  // The weight whose bytes are at next(), which moves on. It keeps the block's memory.
  mlx::core::array take(const mlx::core::Shape& shape, mlx::core::Dtype dtype);
  // A copy of `weight`, which is evaluated, row by row.
  mlx::core::array take_copy(const mlx::core::array& weight);

 private:
  std::shared_ptr<std::byte> memory_;
  io::Block block_;
  size_t offset_;
};

}  // namespace mamba::models
