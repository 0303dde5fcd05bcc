// Examples of a question and its answer: token sequences with a mark on the tokens whose prediction is trained.
#pragma once

#include <cstdint>
#include <span>

#include "mamba/train/data/token_array.h"

namespace mamba::train {

// A view.
class Examples {
 public:
  Examples() = default;
  // `positions`: count + 1 ascending positions in `tokens`. `mask`: one byte for each token, 1 where it is a target.
  Examples(TokenArray tokens, std::span<const uint64_t> positions, std::span<const uint8_t> mask)
      : tokens_(tokens), positions_(positions), mask_(mask) {}

  int64_t count() const { return positions_.empty() ? 0 : static_cast<int64_t>(positions_.size()) - 1; }
  int64_t size() const { return tokens_.size(); }
  int64_t start(int64_t example) const { return static_cast<int64_t>(positions_[static_cast<size_t>(example)]); }
  int64_t length(int64_t example) const { return start(example + 1) - start(example); }
  void copy(int64_t example, int64_t count, int32_t* out) const { tokens_.copy(start(example), count, out); }
  std::span<const uint8_t> mask(int64_t example) const {
    return mask_.subspan(static_cast<size_t>(start(example)), static_cast<size_t>(length(example)));
  }

 private:
  TokenArray tokens_;
  std::span<const uint64_t> positions_;
  std::span<const uint8_t> mask_;
};

}  // namespace mamba::train
