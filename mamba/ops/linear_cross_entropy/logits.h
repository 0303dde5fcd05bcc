// Inside linear_cross_entropy: the logits of a block of tokens, word block by word block, and their softmax.
#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <vector>

#include "mamba/ops/linear/multiply.h"
#include "mamba/ops/linear_cross_entropy/softmax.h"

namespace mamba::ops::linear_cross_entropy_detail {

// Logits are made for tokens x words: blocks large enough that their products run at full speed, small enough to stay
// in the third-level cache.
constexpr int64_t kBlockTokens = 512;
constexpr int64_t kBlockWords = 2048;

// Rows of a float32 block as a product's output.
void point_to_block(float* block, int64_t stride, int64_t rows, linear_detail::OutRows& out);

// Rows [begin, begin + count) of a matrix.
linear_detail::Matrix rows_from(const linear_detail::Matrix& matrix, int64_t begin);

// read_from() and reserve() once, then run() any number of times, without allocating.
class Logits {
 public:
  linear_detail::Rows x;
  linear_detail::Matrix weight;
  int64_t words = 0;
  int64_t width = 0;
  const int32_t* targets = nullptr;

  // Reads from these, whose rows are contiguous and whose memory must outlive this.
  void read_from(const mlx::core::array& x, const mlx::core::array& weight, const mlx::core::array& targets);
  void reserve();

  // The logits of `count` <= kBlockTokens tokens, `tokens` their rows in x: token i's begin at memory + i * stride. All
  // of them are kept where `keep` says so, else a block of words takes the place of the one before.
  void run(const int64_t* tokens, int64_t count, float* memory, int64_t stride, bool keep, float* multiply_workspace);

  // Their log-probabilities alone, to `to` by their rows in x; any number of tokens. Needs streamed_floats() at
  // `memory`.
  void log_probabilities(const std::vector<int64_t>& tokens, float* memory, float* multiply_workspace, float* to);
  int64_t streamed_floats() const;

  // Of the i-th token of the last run, whose target is in the vocabulary.
  float log_sum(int64_t i) const { return static_cast<float>(exact_log_sum(i)); }
  float log_probability(int64_t i) const;
  float target_logit(int64_t i) const { return chosen_[static_cast<size_t>(i)]; }

 private:
  double exact_log_sum(int64_t i) const;

  std::vector<RunningSoftmax> running_;
  std::vector<float> chosen_;
  std::vector<int64_t> groups_;
  linear_detail::Product product_;
};

}  // namespace mamba::ops::linear_cross_entropy_detail
