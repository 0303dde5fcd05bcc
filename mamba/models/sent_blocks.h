// Inside models: how a prompt's blocks are sent to a GPU.
#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <optional>

#include "mamba/models/config.h"

namespace mamba::models {

// MLX has memory for all that it has sent to a GPU, run or not, and sends nothing before the graph is there. So blocks
// go in pieces, of which two are on their way; the first is one block, with which the device begins.
class SentBlocks {
 public:
  SentBlocks(int64_t positions, const Config& config, mlx::core::Dtype dtype);

  // `x`: what the next block gives.
  void add(const mlx::core::array& x);

 private:
  int64_t most_;  // blocks of a piece
  int64_t blocks_ = 0;
  bool is_first_ = true;
  std::optional<mlx::core::array> last_, before_last_;
};

}  // namespace mamba::models
