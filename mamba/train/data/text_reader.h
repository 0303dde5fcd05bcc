// Text files in pieces of bounded size.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "mamba/base/file.h"
#include "mamba/train/data/document_encoder.h"

namespace mamba::train {

// A file's text in pieces that encode to what the whole text encodes to (DocumentEncoder::cut). A byte order mark is
// left out. Not thread-safe.
class TextReader {
 public:
  static constexpr size_t kPiece = size_t{1} << 17;

  TextReader(std::filesystem::path path, const DocumentEncoder& encoder);

  // Nothing at the end. Throws ParseError with the place of the first byte that is not UTF-8.
  std::optional<std::string> next();

 private:
  void fill();

  std::filesystem::path path_;
  const DocumentEncoder& encoder_;
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
