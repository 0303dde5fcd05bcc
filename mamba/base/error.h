// The errors every layer throws. A message says what is wrong, where, and what to do, with the values, in one line.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

namespace mamba {

// Something could not be done: a file, a network, a shape. The program exits with 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The caller asked for something that makes no sense: a bad option or an id outside the vocabulary. Exit code 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

// A file does not follow its format. `what()` reads "<file>: <message> (at byte <offset>)".
class ParseError : public Error {
 public:
  static constexpr int64_t kNoOffset = -1;

  ParseError(std::string file, int64_t offset, const std::string& message);

  const std::string& file() const { return file_; }
  int64_t offset() const { return offset_; }

 private:
  std::string file_;
  int64_t offset_;
};

// Throws Error with the formatted message unless `condition` holds.
template <typename... Args>
void check(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]] {
    throw Error(fmt::format(format, std::forward<Args>(args)...));
  }
}

// `text` in double quotes with control characters and invalid UTF-8 escaped, cut after `limit` bytes:
// safe to put into a message, whatever the file said.
std::string quote(std::string_view text, size_t limit = 80);

}  // namespace mamba
