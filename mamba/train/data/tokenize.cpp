#include "mamba/train/data/tokenize.h"

#include <algorithm>
#include <exception>
#include <memory>

#include "mamba/base/error.h"
#include "mamba/base/file_lock.h"
#include "mamba/base/threads.h"
#include "mamba/text/tokenizer_config.h"
#include "mamba/train/data/document_encoder.h"
#include "mamba/train/data/json_lines.h"
#include "mamba/train/data/text_reader.h"

namespace mamba::train {

namespace fs = std::filesystem;

namespace {

// What is read before it is encoded, on all cores: large enough for a range for each of many cores.
constexpr size_t kGroupBytes = size_t{8} << 20;
constexpr size_t kGroupItems = 8192;
constexpr int kEncodingVersion = 1;  // to be raised when the same files and tokenizer give other tokens

// A piece of a text file, or a line of a JSON lines file; then its tokens.
struct Item {
  const Source* source;
  std::string text;
  int64_t line = 0;    // 0: a piece of a text file
  bool begins = true;  // a document
  bool ends = true;

  EncodedExample encoded;
  bool is_example = false;
  std::exception_ptr error;
};

void encode(Item& item, const DocumentEncoder& encoder) {
  if (item.line == 0) {
    item.encoded.ids = encoder.encode(item.text);
    return;
  }
  const auto record = parse_record(item.text, fmt::format("{}:{}", item.source->path.string(), item.line));
  if (!record) {
    item.begins = item.ends = false;
  } else if (record->is_example) {
    item.is_example = true;
    item.encoded = encoder.completion(record->prompt, record->completion);
  } else {
    item.encoded.ids = encoder.encode(record->text);
  }
}

// Reads the sources item by item.
class ItemReader {
 public:
  ItemReader(std::span<const Source> sources, const DocumentEncoder& encoder) : sources_(sources), encoder_(encoder) {}

  // False when there is no more.
  bool next(Item& item) {
    for (; source_ < sources_.size(); ++source_) {
      const Source& source = sources_[source_];
      item = Item{.source = &source, .text = {}, .encoded = {}, .error = {}};
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
      if (pieces_ == nullptr) {
        pieces_ = std::make_unique<TextReader>(source.path, encoder_);
        piece_ = pieces_->next();
        item.begins = true;
      } else {
        item.begins = false;
      }
      if (piece_) {
        item.text = std::move(*piece_);
        piece_ = pieces_->next();
        item.ends = !piece_;
        if (item.ends) {
          pieces_.reset();
          ++source_;
        }
        return true;
      }
      pieces_.reset();  // an empty file
    }
    return false;
  }

 private:
  std::span<const Source> sources_;
  const DocumentEncoder& encoder_;
  size_t source_ = 0;
  std::unique_ptr<LineReader> lines_;
  std::unique_ptr<TextReader> pieces_;
  std::optional<std::string> piece_;
};

void write(const Item& item, const DocumentEncoder& encoder, TokenCacheWriter& writer) {
  if (item.is_example) {
    writer.add_example(item.encoded.ids, item.encoded.mask);
    return;
  }
  std::span<const int32_t> ids = item.encoded.ids;
  if (item.begins && !ids.empty()) {
    writer.add(encoder.prefix());
  }
  const std::optional<int32_t> end = encoder.end();
  // An end-of-text token inside a text separates documents.
  while (end) {
    const auto found = std::find(ids.begin(), ids.end(), *end);
    if (found == ids.end()) {
      break;
    }
    const auto size = static_cast<size_t>(found - ids.begin()) + 1;
    writer.add(ids.first(size));
    writer.end_document();
    ids = ids.subspan(size);
  }
  writer.add(ids);
  if (item.ends && writer.document_open()) {
    if (end) {
      writer.add(std::span(&*end, 1));
    }
    writer.end_document();
  }
}

void fill(TokenCacheWriter& writer, std::span<const Source> sources, const DocumentEncoder& encoder,
          const ProgressFn& progress) {
  int64_t total = 0;
  for (const Source& source : sources) {
    total += static_cast<int64_t>(source.size);
  }
  ItemReader reader(sources, encoder);
  std::vector<Item> group;
  int64_t done = 0;
  for (bool more = true; more;) {
    group.clear();
    size_t bytes = 0;
    while (bytes < kGroupBytes && group.size() < kGroupItems && (more = reader.next(group.emplace_back()))) {
      bytes += group.back().text.size() + (group.back().line > 0 ? 1 : 0);
    }
    if (!more) {
      group.pop_back();
    }
    parallel_for(static_cast<int64_t>(group.size()), 1, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        try {
          encode(group[i], encoder);
        } catch (...) {
          group[i].error = std::current_exception();
        }
      }
    });
    for (const Item& item : group) {
      if (item.error) {
        std::rethrow_exception(item.error);
      }
      write(item, encoder, writer);
    }
    done = std::min(done + static_cast<int64_t>(bytes), total);
    if (progress) {
      progress({.what = "tokenising", .done = more ? done : total, .total = total, .finished = !more});
    }
  }
}

std::string identity_of(std::span<const Source> sources, const fs::path& tokenizer) {
  std::string text = fmt::format("version {}\n", kEncodingVersion);
  for (const char* name : {"", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"}) {
    const fs::path path = *name == '\0' ? tokenizer : tokenizer.parent_path() / name;
    std::error_code error;
    text += fs::exists(path, error) ? fingerprint(read_file(path)) : "none";
    text += '\n';
  }
  for (const Source& source : sources) {
    text += fmt::format("{} {} {} {}\n", fs::absolute(source.path).lexically_normal().string(), source.size,
                        source.modified, source.changed);
  }
  return fingerprint(text);
}

}  // namespace

TokenCache tokenize(std::span<const Source> sources, const fs::path& tokenizer_file, const fs::path& folder,
                    const ProgressFn& progress) {
  if (tokenizer_file.empty()) {
    throw UsageError(fmt::format("{}: text needs a tokenizer", sources.front().path.string()));
  }
  const std::string identity = identity_of(sources, tokenizer_file);
  const fs::path place = folder / identity;
  if (auto cache = TokenCache::open(place, identity)) {
    return std::move(*cache);
  }
  make_directories(folder);
  const FileLock lock(folder / (identity + ".lock"), [&] {
    if (progress) {
      progress({.what = "waiting for another process that reads the same data", .unit = ""});
    }
  });
  if (auto cache = TokenCache::open(place, identity)) {
    return std::move(*cache);
  }
  const text::Tokenizer tokenizer = text::Tokenizer::from_file(tokenizer_file);
  const DocumentEncoder encoder(tokenizer, text::end_of_text(tokenizer, text::TokenizerConfig::beside(tokenizer_file)));
  {
    std::error_code ignored;
    fs::remove_all(place, ignored);  // damaged, or left behind by a process that was killed
    TokenCacheWriter writer(place, tokenizer.max_id());
    fill(writer, sources, encoder, progress);
    for (const Source& source : sources) {
      const Source now = source_at(source.path, source.kind);
      check(now.size == source.size && now.modified == source.modified && now.changed == source.changed,
            "{}: the file changed while it was read: start again when it is complete", source.path.string());
    }
    writer.commit(identity);
  }
  auto cache = TokenCache::open(place, identity);
  check(cache.has_value(), "{}: the cache that was written just now reads back damaged: is the disk in order?",
        place.string());
  return std::move(*cache);
}

}  // namespace mamba::train
