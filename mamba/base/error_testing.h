// For tests of what is refused.
#pragma once

#include <string>

#include "mamba/base/error.h"

namespace mamba {

// The message with which `action` ends, an E; "no error" where it throws nothing.
template <typename E = Error, typename F>
std::string message_of(const F& action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace mamba
