#include "apps/mlx-mamba/ordered_text.h"

#include <utility>

#include "apps/mlx-mamba/console.h"
#include "mamba/base/error.h"

namespace mamba::cli {

void OrderedText::begin_current() {
  if (current_begun_) {
    return;
  }
  current_begun_ = true;
  if (texts_.size() > 1) {
    put(fmt::format("==> prompt {} <==\n", current_ + 1));
  }
  put(std::exchange(texts_[current_].waiting, {}));
}

void OrderedText::append(size_t index, const std::string& piece) {
  texts_[index].begun = true;
  if (index == current_) {
    begin_current();
    put(piece);
  } else {
    texts_[index].waiting += piece;
  }
}

void OrderedText::finish(size_t index) {
  texts_[index].done = true;
  for (; current_ < texts_.size() && texts_[current_].done; ++current_, current_begun_ = false) {
    begin_current();
    put("\n");
  }
  if (current_ < texts_.size() && texts_[current_].begun) {
    begin_current();
  }
}

}  // namespace mamba::cli
