// What long work reports. The library never prints: the program turns these calls into a bar or into lines.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace mamba {

struct Progress {
  std::string what;        // "model.safetensors"
  int64_t done = 0;        // in `unit`
  int64_t total = -1;      // -1: not known
  const char* unit = "B";  // "B" for bytes, else a plural noun
  bool finished = false;   // the last call for this `what`
};

// Called from the thread that does the work, at most every few dozen milliseconds. May throw to cancel.
using ProgressFn = std::function<void(const Progress&)>;

}  // namespace mamba
