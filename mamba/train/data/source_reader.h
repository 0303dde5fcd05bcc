// The text of many files, a few megabytes at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mamba/base/progress.h"
#include "mamba/train/data/sources.h"
#include "mamba/train/data/text_reader.h"

namespace mamba::train {

// A piece of a text file, or a line of a JSON lines file.
struct SourceItem {
  const Source* source = nullptr;
  std::string text;
  int64_t line = 0;    // from 1; 0: a piece of a text file
  bool begins = true;  // a document
  bool ends = true;

  bool is_line() const { return line > 0; }
  std::string place() const;  // "file:line"
};

// Requires text and JSON lines alone, which outlive it. Not thread-safe.
class SourceReader {
 public:
  SourceReader(std::span<const Source> sources, CutFn cut);

  // What comes next, in order: enough to keep many cores busy, and never much more. Empty at the end. Throws as
  // TextReader and LineReader do.
  std::vector<SourceItem> next();

  // How far the reader is, to `progress` if there is one.
  void report(const char* what, const ProgressFn& progress) const;

 private:
  bool read(SourceItem& item);

  std::span<const Source> sources_;
  CutFn cut_;
  size_t source_ = 0;
  std::unique_ptr<LineReader> lines_;
  std::unique_ptr<TextReader> pieces_;
  std::optional<std::string> piece_;  // the next of pieces_
  int64_t done_ = 0;                  // bytes
  int64_t total_ = 0;
};

}  // namespace mamba::train
