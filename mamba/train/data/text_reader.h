// Text files in pieces of bounded size.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "mamba/base/file.h"

namespace mamba::train {

// Where to cut a text, at `limit` or before it; 0 < limit < text.size().
using CutFn = std::function<size_t(std::string_view text, size_t limit)>;

// A file's text in pieces, cut where `cut` says. A byte order mark is left out. Not thread-safe.
class TextReader {
 public:
  static constexpr size_t kPiece = size_t{1} << 17;

  TextReader(std::filesystem::path path, CutFn cut);

  // Nothing at the end. Throws ParseError with the place of the first byte that is not UTF-8.
  std::optional<std::string> next();

 private:
  void fill();

  std::filesystem::path path_;
  CutFn cut_;
  InputFile file_;
  std::string buffer_;
  int64_t offset_ = 0;      // of the buffer in the file
  size_t well_formed_ = 0;  // bytes of the buffer
  bool at_end_ = false;
};

// The lines of a file, without their ends. Empty ones too, so that lines can be counted. Not thread-safe.
class LineReader {
 public:
  static constexpr size_t kMaxLine = size_t{1} << 28;

  explicit LineReader(std::filesystem::path path);

  // Nothing at the end. Throws ParseError for a line longer than kMaxLine.
  std::optional<std::string> next();
  int64_t line() const { return line_; }  // of the line that next() gave, from 1

 private:
  std::filesystem::path path_;
  InputFile file_;
  std::string buffer_;
  size_t at_ = 0;
  int64_t line_ = 0;
  bool at_end_ = false;
};

}  // namespace mamba::train
