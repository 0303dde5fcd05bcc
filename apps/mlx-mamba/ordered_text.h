// Texts that grow side by side, printed one after the other: the first that is not done streams, the others wait.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace mamba::cli {

class OrderedText {
 public:
  // With more than one text each gets a line "==> prompt 2 <==" above it.
  explicit OrderedText(size_t count) : texts_(count) {}

  void append(size_t index, const std::string& piece);
  void finish(size_t index);  // ends the line
  bool empty(size_t index) const { return !texts_[index].begun; }

 private:
  struct Text {
    std::string waiting;
    bool begun = false;
    bool done = false;
  };
  void begin_current();  // not before there is something to print: work may fail without a word on standard output

  std::vector<Text> texts_;
  size_t current_ = 0;
  bool current_begun_ = false;
};

}  // namespace mamba::cli
