#include "mamba/train/data/token_cache.h"

#include <algorithm>
#include <array>

namespace mamba::train {

namespace fs = std::filesystem;

namespace {

constexpr int kFormat = 1;
constexpr const char* kMeta = "meta.json";
constexpr size_t kBuffer = size_t{1} << 20;
constexpr std::array<const char*, 5> kColumns = {"documents.tokens", "documents.starts", "examples.tokens",
                                                 "examples.starts", "examples.mask"};

class ColumnWriter {
 public:
  explicit ColumnWriter(const fs::path& path) : file_(path) {}

  void write(const void* data, size_t size) {
    buffer_.append(static_cast<const char*>(data), size);
    if (buffer_.size() >= kBuffer) {
      flush();
    }
  }

  // Makes the column durable and says what meta.json has to know.
  Json commit() {
    flush();
    file_.commit();
    return {{"bytes", file_.written()}, {"checksum", fmt::format("{:016x}", checksum_.finish())}};
  }

 private:
  void flush() {
    file_.write(buffer_);
    checksum_.update(buffer_.data(), buffer_.size());
    buffer_.clear();
  }

  AtomicFile file_;
  BlockChecksum checksum_;
  std::string buffer_;
};

template <typename T>
std::span<const T> numbers_in(const MappedFile& file) {
  return {reinterpret_cast<const T*>(file.data()), file.size() / sizeof(T)};
}

TokenArray tokens_in(const MappedFile& file, int size) {
  return {file.data(), static_cast<int64_t>(file.size()) / size, {.size = size}};
}

// Ascending from 0 to the number of tokens: a view relies on it, whatever a checksum says.
bool well_formed(const TokenCache::Column& column) {
  const auto& starts = column.starts;
  return !starts.empty() && starts.front() == 0 && starts.back() == static_cast<uint64_t>(column.tokens.size()) &&
         std::is_sorted(starts.begin(), starts.end());
}

}  // namespace

struct TokenCacheWriter::Columns {
  explicit Columns(const fs::path& folder)
      : files{ColumnWriter(folder / kColumns[0]), ColumnWriter(folder / kColumns[1]),
              ColumnWriter(folder / kColumns[2]), ColumnWriter(folder / kColumns[3]),
              ColumnWriter(folder / kColumns[4])} {}

  void write_ids(size_t column, std::span<const int32_t> ids, int token_size) {
    if (token_size == 4) {
      files[column].write(ids.data(), ids.size_bytes());
      return;
    }
    narrow.assign(ids.begin(), ids.end());
    files[column].write(narrow.data(), narrow.size() * sizeof(uint16_t));
  }
  void write_start(size_t column, uint64_t position) { files[column].write(&position, sizeof(position)); }

  std::array<ColumnWriter, 5> files;
  std::vector<uint16_t> narrow;
  uint64_t document_tokens = 0;
  uint64_t example_tokens = 0;
  bool open = false;
};

TokenCacheWriter::TokenCacheWriter(const fs::path& folder, int32_t largest_id)
    : folder_(folder), token_size_(largest_id > UINT16_MAX ? 4 : 2) {
  make_directories(folder_);
  columns_ = std::make_unique<Columns>(folder_);
}

TokenCacheWriter::~TokenCacheWriter() = default;

bool TokenCacheWriter::document_open() const {
  return columns_->open;
}

void TokenCacheWriter::add(std::span<const int32_t> ids) {
  if (ids.empty()) {
    return;
  }
  if (!columns_->open) {
    columns_->write_start(1, columns_->document_tokens);
    columns_->open = true;
    ++counts_.documents;
  }
  columns_->write_ids(0, ids, token_size_);
  columns_->document_tokens += ids.size();
  counts_.tokens += static_cast<int64_t>(ids.size());
  counts_.largest_id = std::max(counts_.largest_id, *std::max_element(ids.begin(), ids.end()));
}

void TokenCacheWriter::end_document() {
  columns_->open = false;
}

void TokenCacheWriter::add_example(std::span<const int32_t> ids, std::span<const uint8_t> mask) {
  if (ids.empty()) {
    return;
  }
  columns_->write_start(3, columns_->example_tokens);
  columns_->write_ids(2, ids, token_size_);
  columns_->files[4].write(mask.data(), mask.size());
  columns_->example_tokens += ids.size();
  ++counts_.examples;
  counts_.tokens += static_cast<int64_t>(ids.size());
  counts_.largest_id = std::max(counts_.largest_id, *std::max_element(ids.begin(), ids.end()));
}

void TokenCacheWriter::commit(const std::string& identity) {
  columns_->write_start(1, columns_->document_tokens);
  columns_->write_start(3, columns_->example_tokens);
  Json columns = Json::object();
  for (size_t i = 0; i < kColumns.size(); ++i) {
    columns[kColumns[i]] = columns_->files[i].commit();
  }
  const Json meta = {{"format", kFormat},
                     {"identity", identity},
                     {"token_bytes", token_size_},
                     {"columns", columns},
                     {"documents", counts_.documents},
                     {"examples", counts_.examples},
                     {"tokens", counts_.tokens},
                     {"largest_id", counts_.largest_id}};
  write_file(folder_ / kMeta, json_text(Json({{"cache", meta}, {"checksum", fingerprint_of(json_text(meta))}}), 1));
}

std::optional<TokenCache> TokenCache::open(const fs::path& folder, const std::string& identity) {
  std::error_code error;
  if (!fs::exists(folder / kMeta, error)) {
    return std::nullopt;
  }
  try {
    const Json json = read_json(folder / kMeta);
    const JsonObject whole(json, kMeta);
    const JsonObject meta = whole.object("cache");
    if (whole.string("checksum") != fingerprint_of(json_text(meta.json())) ||
        meta.integer("format", 0, INT32_MAX) != kFormat || meta.string("identity") != identity) {
      return std::nullopt;
    }
    TokenCache cache;
    const JsonObject columns = meta.object("columns");
    for (const char* name : kColumns) {
      const JsonObject column = columns.object(name);
      const MappedFile& file = cache.files_.emplace_back(folder / name);
      if (static_cast<int64_t>(file.size()) != column.integer("bytes", 0, INT64_MAX) ||
          fmt::format("{:016x}", BlockChecksum::of(file)) != column.string("checksum")) {
        return std::nullopt;
      }
      cache.content_ += column.string("checksum");
    }
    const int size = static_cast<int>(meta.integer("token_bytes", 2, 4));
    cache.documents_ = {tokens_in(cache.files_[0], size), numbers_in<uint64_t>(cache.files_[1]), {}};
    cache.examples_ = {tokens_in(cache.files_[2], size), numbers_in<uint64_t>(cache.files_[3]),
                       numbers_in<uint8_t>(cache.files_[4])};
    cache.counts_ = {.documents = meta.integer("documents", 0, INT64_MAX),
                     .examples = meta.integer("examples", 0, INT64_MAX),
                     .tokens = meta.integer("tokens", 0, INT64_MAX),
                     .largest_id = static_cast<int32_t>(meta.integer("largest_id", -1, INT32_MAX))};
    if ((size != 2 && size != 4) || !well_formed(cache.documents_) || !well_formed(cache.examples_) ||
        static_cast<int64_t>(cache.examples_.mask.size()) != cache.examples_.tokens.size()) {
      return std::nullopt;
    }
    return cache;
  } catch (const Error&) {  // damaged, or being replaced: it is made anew
    return std::nullopt;
  }
}

}  // namespace mamba::train
