#include "mamba/train/data/token_stream.h"

#include <algorithm>

namespace mamba::train {

DocumentStarts DocumentStarts::regular(int64_t count, int64_t length) {
  DocumentStarts starts;
  starts.count_ = count;
  starts.length_ = length;
  return starts;
}

DocumentStarts DocumentStarts::listed(std::span<const uint64_t> positions) {
  DocumentStarts starts;
  starts.count_ = static_cast<int64_t>(positions.size()) - 1;
  starts.positions_ = positions;
  return starts;
}

int64_t DocumentStarts::start(int64_t index) const {
  return positions_.empty() ? index * length_ : static_cast<int64_t>(positions_[static_cast<size_t>(index)]);
}

int64_t DocumentStarts::first_from(int64_t position) const {
  if (positions_.empty()) {
    return length_ == 0 ? count_ : std::min(count_, (position + length_ - 1) / length_);
  }
  const auto end = positions_.end() - 1;
  return std::lower_bound(positions_.begin(), end, static_cast<uint64_t>(position)) - positions_.begin();
}

void TokenStream::append(TokenArray tokens, DocumentStarts documents) {
  if (tokens.size() == 0) {
    return;
  }
  segments_.push_back({tokens, documents, size_, document_count_});
  size_ += tokens.size();
  document_count_ += documents.count();
}

const TokenStream::Segment& TokenStream::segment_at(int64_t position) const {
  const auto behind =
      std::upper_bound(segments_.begin(), segments_.end(), position,
                       [](int64_t value, const Segment& segment) { return value < segment.first_token; });
  return *(behind - 1);
}

int64_t TokenStream::document_start(int64_t document) const {
  if (document >= document_count_) {
    return size_;
  }
  const auto behind =
      std::upper_bound(segments_.begin(), segments_.end(), document,
                       [](int64_t value, const Segment& segment) { return value < segment.first_document; });
  const Segment& segment = *(behind - 1);
  return segment.first_token + segment.documents.start(document - segment.first_document);
}

int64_t TokenStream::first_document_from(int64_t position) const {
  if (position >= size_) {
    return document_count_;
  }
  const Segment& segment = segment_at(position);
  return segment.first_document + segment.documents.first_from(position - segment.first_token);
}

void TokenStream::copy(int64_t begin, int64_t count, int32_t* out) const {
  while (count > 0) {
    const Segment& segment = segment_at(begin);
    const int64_t first = begin - segment.first_token;
    const int64_t part = std::min(count, segment.tokens.size() - first);
    segment.tokens.copy(first, part, out);
    begin += part;
    count -= part;
    out += part;
  }
}

}  // namespace mamba::train
