#include "mamba/models/sent_blocks.h"

#include <mlx/transforms.h>

#include <algorithm>
#include <utility>

namespace mamba::models {

namespace mx = mlx::core;

namespace {

constexpr int64_t kPieceBytes = 512 << 20;
constexpr int64_t kMostBlocks = 6;  // a piece costs the host as much as a launch or two

// What a block's arrays take, about: of float32 numbers there are parts, too (ops/product).
int64_t block_bytes(int64_t positions, const Config& config, mx::Dtype dtype) {
  const int64_t numbers = positions * (10 * config.d_inner + 6 * config.d_model);
  return std::max<int64_t>(numbers, 1) * (dtype == mx::float32 ? 8 : 2);
}

}  // namespace

SentBlocks::SentBlocks(int64_t positions, const Config& config, mx::Dtype dtype)
    : most_(std::clamp<int64_t>(kPieceBytes / block_bytes(positions, config, dtype), 1, kMostBlocks)) {}

void SentBlocks::add(const mx::array& x) {
  if (!is_first_ && ++blocks_ < most_) {
    return;
  }
  if (before_last_) {
    before_last_->wait();
  }
  mx::async_eval(x);
  before_last_ = std::exchange(last_, x);
  is_first_ = false;
  blocks_ = 0;
}

}  // namespace mamba::models
