#include "mamba/io/pickle_bytes.h"

namespace mamba::io {

std::string_view PickleBytes::take(uint64_t count) {
  if (count > pickle_.size() - at_) {
    fail(fmt::format("the pickle is cut off: {} bytes are wanted but {} are left", count, pickle_.size() - at_));
  }
  const std::string_view bytes = pickle_.substr(at_, count);
  at_ += count;
  return bytes;
}

uint64_t PickleBytes::take_number(uint64_t width) {
  const std::string_view bytes = take(width);
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) {
    value = value << 8 | static_cast<uint8_t>(bytes[i]);
  }
  return value;
}

std::string_view PickleBytes::take_line() {
  const size_t end = pickle_.find('\n', at_);
  if (end == std::string_view::npos) {
    fail("the pickle is cut off in a name");
  }
  const std::string_view line = take(end - at_);
  ++at_;
  return line;
}

int64_t PickleBytes::take_long(uint64_t width) {
  const std::string_view bytes = take(width);
  const bool negative = !bytes.empty() && (static_cast<uint8_t>(bytes.back()) & 0x80) != 0;
  uint64_t value = negative ? UINT64_MAX : 0;
  bool fits = true;
  for (size_t i = bytes.size(); i-- > 0;) {
    const auto byte = static_cast<uint8_t>(bytes[i]);
    if (i >= 8) {
      fits = fits && byte == (negative ? 0xff : 0x00);
    } else {
      value = value << 8 | byte;
    }
  }
  const auto number = static_cast<int64_t>(value);
  fits = fits && (number < 0) == negative;
  return fits ? number : negative ? INT64_MIN : INT64_MAX;
}

}  // namespace mamba::io
