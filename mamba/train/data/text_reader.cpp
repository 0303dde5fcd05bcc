#include "mamba/train/data/text_reader.h"

#include "mamba/text/unicode.h"

namespace mamba::train {
namespace {

constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
constexpr size_t kLookAhead = size_t{1} << 12;  // what a cut needs to see behind it
constexpr size_t kRead = size_t{1} << 18;

// Appends up to `size` bytes; false at the end of the file.
bool read_more(InputFile& file, std::string& buffer, size_t size) {
  const size_t used = buffer.size();
  buffer.resize(used + size);
  const size_t got = file.read(buffer.data() + used, size);
  buffer.resize(used + got);
  return got == size;
}

}  // namespace

TextReader::TextReader(std::filesystem::path path, CutFn cut)
    : path_(std::move(path)), cut_(std::move(cut)), file_(path_) {}

void TextReader::fill() {
  while (!at_end_ && buffer_.size() < kPiece + kLookAhead) {
    at_end_ = !read_more(file_, buffer_, kPiece + kLookAhead - buffer_.size());
    if (offset_ == 0 && well_formed_ == 0 && buffer_.starts_with(kByteOrderMark)) {
      buffer_.erase(0, kByteOrderMark.size());
      offset_ = static_cast<int64_t>(kByteOrderMark.size());
    }
  }
  const std::string_view rest = std::string_view(buffer_).substr(well_formed_);
  const size_t good = text::well_formed_prefix(rest);
  if (good < rest.size() && (at_end_ || text::sequence_at(rest, good).form != text::Form::kCutShort)) {
    throw ParseError(path_.string(), offset_ + static_cast<int64_t>(well_formed_ + good),
                     fmt::format("the byte 0x{:02x} does not belong there in UTF-8: is this a text file, and in UTF-8?",
                                 static_cast<unsigned char>(rest[good])));
  }
  well_formed_ += good;
}

std::optional<std::string> TextReader::next() {
  fill();
  if (well_formed_ == 0) {
    return std::nullopt;
  }
  size_t size = well_formed_;
  if (!at_end_ || size > kPiece + kLookAhead / 2) {
    size = cut_(std::string_view(buffer_).substr(0, well_formed_), std::min(kPiece, well_formed_ - 1));
  }
  std::string piece = buffer_.substr(0, size);
  buffer_.erase(0, size);
  offset_ += static_cast<int64_t>(size);
  well_formed_ -= size;
  return piece;
}

LineReader::LineReader(std::filesystem::path path) : path_(std::move(path)), file_(path_) {}

std::optional<std::string> LineReader::next() {
  ++line_;
  size_t searched = at_;
  for (;;) {
    const size_t end = buffer_.find('\n', searched);
    if (end != std::string::npos || at_end_) {
      if (end == std::string::npos && at_ == buffer_.size()) {
        return std::nullopt;
      }
      const size_t stop = end == std::string::npos ? buffer_.size() : end;
      std::string line = buffer_.substr(at_, stop - at_);
      at_ = end == std::string::npos ? stop : stop + 1;
      if (line.ends_with('\r')) {
        line.pop_back();
      }
      return line;
    }
    buffer_.erase(0, at_);
    at_ = 0;
    searched = buffer_.size();
    if (buffer_.size() > kMaxLine) {
      throw ParseError(fmt::format("{}:{}", path_.string(), line_), ParseError::kNoOffset,
                       fmt::format("the line is longer than {} bytes", kMaxLine));
    }
    at_end_ = !read_more(file_, buffer_, kRead);
  }
}

}  // namespace mamba::train
