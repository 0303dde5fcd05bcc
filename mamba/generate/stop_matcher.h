// Finds stop strings in text that arrives in pieces.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mamba::generate {

class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);

  // Returns what may be shown now: everything up to the first stop string, but nothing that could still turn out to
  // be the beginning of one. After a match found() is true and nothing more comes.
  std::string push(std::string_view piece);

  // The rest, when no more text comes.
  std::string finish();

  bool found() const { return found_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

}  // namespace mamba::generate
