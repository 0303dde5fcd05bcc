// Documents one behind the other, from any number of files, as one sequence of tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mamba/train/data/token_array.h"

namespace mamba::train {

// Where documents start: all of one length, or listed. A view.
class DocumentStarts {
 public:
  static DocumentStarts regular(int64_t count, int64_t length);
  // count + 1 ascending positions; the last is the end.
  static DocumentStarts listed(std::span<const uint64_t> positions);

  int64_t count() const { return count_; }
  int64_t start(int64_t index) const;  // of document `index`; the end for count()
  // The first document that starts at `position` or behind it; count() when none does.
  int64_t first_from(int64_t position) const;

 private:
  int64_t count_ = 0;
  int64_t length_ = 0;
  std::span<const uint64_t> positions_;  // empty: regular
};

// Immutable but for append(); thread-safe then.
class TokenStream {
 public:
  // Requires documents.start(documents.count()) == tokens.size(). Empty arrays are ignored.
  void append(TokenArray tokens, DocumentStarts documents);

  int64_t size() const { return size_; }
  int64_t document_count() const { return document_count_; }
  int64_t document_start(int64_t document) const;  // size() for document_count()
  int64_t first_document_from(int64_t position) const;

  // The ids of [begin, begin + count), which must lie in the stream.
  void copy(int64_t begin, int64_t count, int32_t* out) const;

 private:
  struct Segment {
    TokenArray tokens;
    DocumentStarts documents;
    int64_t first_token;
    int64_t first_document;
  };
  const Segment& segment_at(int64_t position) const;

  std::vector<Segment> segments_;
  int64_t size_ = 0;
  int64_t document_count_ = 0;
};

}  // namespace mamba::train
