#include "mamba/base/error.h"

#include <string_view>

namespace mamba {
namespace {

std::string located(const std::string& file, int64_t offset, const std::string& message) {
  if (offset == ParseError::kNoOffset) {
    return fmt::format("{}: {}", file, message);
  }
  return fmt::format("{}: {} (at byte {})", file, message, offset);
}

}  // namespace

ParseError::ParseError(std::string file, int64_t offset, const std::string& message)
    : Error(located(file, offset, message)), file_(std::move(file)), offset_(offset) {}

std::string quote(std::string_view text, size_t limit) {
  std::string out = "\"";
  for (unsigned char c : text.substr(0, limit)) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c >= 0x20 && c < 0x7f) {
      out += static_cast<char>(c);
    } else {
      out += fmt::format("\\x{:02x}", c);
    }
  }
  out += text.size() > limit ? "...\"" : "\"";
  return out;
}

}  // namespace mamba
