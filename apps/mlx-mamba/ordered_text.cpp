#include "apps/mlx-mamba/ordered_text.h"

#include "apps/mlx-mamba/console.h"
#include "mamba/base/error.h"

namespace mamba::cli {

OrderedText::OrderedText(size_t count) : texts_(count) {
  print_header();
}

void OrderedText::print_header() {
  if (texts_.size() > 1 && current_ < texts_.size()) {
    put(fmt::format("==> prompt {} <==\n", current_ + 1));
  }
}

void OrderedText::append(size_t index, const std::string& piece) {
  texts_[index].begun = true;
  if (index == current_) {
    put(piece);
  } else {
    texts_[index].waiting += piece;
  }
}

void OrderedText::finish(size_t index) {
  texts_[index].done = true;
  while (current_ < texts_.size() && texts_[current_].done) {
    put("\n");
    ++current_;
    print_header();
    if (current_ < texts_.size()) {
      put(texts_[current_].waiting);
      texts_[current_].waiting = {};
    }
  }
}

}  // namespace mamba::cli
