// The bytes of a pickle, taken from the front.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "mamba/base/error.h"

namespace mamba::io {

// Every take checks that the bytes are there. Errors name the offset of the last begin_opcode().
class PickleBytes {
 public:
  PickleBytes(std::string_view pickle, const std::string& file) : pickle_(pickle), file_(file) {}

  uint8_t begin_opcode() {
    start_ = at_;
    return take_byte();
  }

  std::string_view take(uint64_t count);
  uint8_t take_byte() { return static_cast<uint8_t>(take(1)[0]); }
  uint64_t take_number(uint64_t width);  // little-endian, at most 8 bytes
  std::string_view take_line();          // without its newline
  int64_t take_long(uint64_t width);     // two's complement of any length; saturates at 64 bits

  [[noreturn]] void fail(const std::string& message) const {
    throw ParseError(file_, static_cast<int64_t>(start_), message);
  }

 private:
  std::string_view pickle_;
  const std::string& file_;
  size_t at_ = 0;
  size_t start_ = 0;
};

}  // namespace mamba::io
