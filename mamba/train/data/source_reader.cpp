#include "mamba/train/data/source_reader.h"

#include <algorithm>

namespace mamba::train {
namespace {

constexpr size_t kGroupBytes = size_t{8} << 20;
constexpr size_t kGroupItems = 8192;

}  // namespace

std::string SourceItem::place() const {
  return fmt::format("{}:{}", source->path.string(), line);
}

SourceReader::SourceReader(std::span<const Source> sources, CutFn cut) : sources_(sources), cut_(std::move(cut)) {
  for (const Source& source : sources_) {
    total_ += static_cast<int64_t>(source.size);
  }
}

std::vector<SourceItem> SourceReader::next() {
  std::vector<SourceItem> group;
  size_t bytes = 0;
  SourceItem item;
  while (bytes < kGroupBytes && group.size() < kGroupItems && read(item)) {
    bytes += item.text.size() + (item.is_line() ? 1 : 0);
    group.push_back(std::move(item));
  }
  done_ = std::min(done_ + static_cast<int64_t>(bytes), total_);
  return group;
}

bool SourceReader::read(SourceItem& item) {
  for (; source_ < sources_.size(); ++source_) {
    const Source& source = sources_[source_];
    item = SourceItem{.source = &source, .text = {}};
    if (source.kind == SourceKind::kJsonLines) {
      if (lines_ == nullptr) {
        lines_ = std::make_unique<LineReader>(source.path);
      }
      if (auto line = lines_->next()) {
        item.text = std::move(*line);
        item.line = lines_->line();
        return true;
      }
      lines_.reset();
      continue;
    }
    item.begins = pieces_ == nullptr;
    if (item.begins) {
      pieces_ = std::make_unique<TextReader>(source.path, cut_);
      piece_ = pieces_->next();
    }
    if (piece_) {
      item.text = std::move(*piece_);
      piece_ = pieces_->next();
      item.ends = !piece_;
      return true;
    }
    pieces_.reset();
  }
  return false;
}

void SourceReader::report(const char* what, const ProgressFn& progress) const {
  if (progress) {
    const bool finished = source_ == sources_.size();
    progress({.what = what, .done = finished ? total_ : done_, .total = total_, .finished = finished});
  }
}

}  // namespace mamba::train
