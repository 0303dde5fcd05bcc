#include "mamba/ops/linear_cross_entropy/logits.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "mamba/base/threads.h"
#include "mamba/ops/linear/sequences.h"

namespace mamba::ops::linear_cross_entropy_detail {

namespace {

int64_t streamed_stride(int64_t words) {
  return linear_detail::packed_stride(std::min(words, kBlockWords));
}

}  // namespace

void point_to_block(float* block, int64_t stride, int64_t rows, linear_detail::OutRows& out) {
  out.type = linear_detail::Float::kFloat32;
  out.rows.clear();
  for (int64_t row = 0; row < rows; ++row) {
    out.rows.push_back(block + row * stride);
  }
}

linear_detail::Matrix rows_from(const linear_detail::Matrix& matrix, int64_t begin) {
  linear_detail::Matrix part = matrix;
  part.data = static_cast<const std::byte*>(matrix.data) + begin * matrix.stride * size_of(matrix.type);
  return part;
}

void Logits::read_from(const mlx::core::array& x_array, const mlx::core::array& weight_array,
                       const mlx::core::array& target_array) {
  x = linear_detail::rows_of(x_array);
  weight = linear_detail::matrix_of(weight_array);
  words = weight_array.shape(0);
  width = weight_array.shape(1);
  targets = target_array.data<int32_t>();
}

void Logits::reserve() {
  const auto block = static_cast<size_t>(kBlockTokens);
  running_.resize(block);
  chosen_.resize(block);
  groups_.resize(1);
  product_.left.rows.rows.reserve(block);
  product_.out.rows.reserve(block);
}

void Logits::run(const int64_t* tokens, int64_t count, float* memory, int64_t stride, bool keep,
                 float* multiply_workspace) {
  product_.m = groups_[0] = count;
  product_.k = width;
  product_.left.rows.type = x.type;
  product_.left.rows.rows.clear();
  for (int64_t i = 0; i < count; ++i) {
    product_.left.rows.rows.push_back(x.rows[static_cast<size_t>(tokens[i])]);
    running_[static_cast<size_t>(i)] = kNothingSeen;
  }
  for (int64_t word = 0; word < words; word += kBlockWords) {
    float* block = memory + (keep ? word : 0);
    product_.n = std::min(kBlockWords, words - word);
    product_.right.matrix = rows_from(weight, word);
    point_to_block(block, stride, count, product_.out);
    linear_detail::multiply(product_, groups_, multiply_workspace);
    parallel_for(count, 8, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        const float* row = block + i * stride;
        accumulate(row, product_.n, running_[static_cast<size_t>(i)]);
        const int64_t target = targets[tokens[i]] - word;
        if (target >= 0 && target < product_.n) {
          chosen_[static_cast<size_t>(i)] = row[target];
        }
      }
    });
  }
}

void Logits::log_probabilities(const std::vector<int64_t>& tokens, float* memory, float* multiply_workspace,
                               float* to) {
  const auto count = static_cast<int64_t>(tokens.size());
  for (int64_t begin = 0; begin < count; begin += kBlockTokens) {
    const int64_t block = std::min(kBlockTokens, count - begin);
    run(tokens.data() + begin, block, memory, streamed_stride(words), false, multiply_workspace);
    for (int64_t i = 0; i < block; ++i) {
      to[tokens[static_cast<size_t>(begin + i)]] = log_probability(i);
    }
  }
}

int64_t Logits::streamed_floats() const {
  return std::min(x.count(), kBlockTokens) * streamed_stride(words);
}

double Logits::exact_log_sum(int64_t i) const {
  const RunningSoftmax& seen = running_[static_cast<size_t>(i)];
  return static_cast<double>(seen.maximum) + std::log(seen.sum);
}

float Logits::log_probability(int64_t i) const {
  return static_cast<float>(static_cast<double>(target_logit(i)) - exact_log_sum(i));
}

}  // namespace mamba::ops::linear_cross_entropy_detail
