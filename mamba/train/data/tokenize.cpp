#include "mamba/train/data/tokenize.h"

#include <algorithm>
#include <exception>
#include <optional>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/base/file_lock.h"
#include "mamba/base/mix_bits.h"
#include "mamba/base/threads.h"
#include "mamba/text/tokenizer_config.h"
#include "mamba/train/data/document_encoder.h"
#include "mamba/train/data/json_lines.h"
#include "mamba/train/data/source_reader.h"

namespace mamba::train {

namespace fs = std::filesystem;

namespace {

constexpr int kEncodingVersion = 1;  // to be raised when the same files and tokenizer give other tokens

struct Item {
  SourceItem source;
  EncodedExample encoded;
  bool is_example = false;
  std::exception_ptr error;
};

// How conversations are written.
struct Chat {
  text::ChatTemplate format;
  text::ChatOptions options;

  explicit Chat(const text::TokenizerConfig& config)
      : format(config.chat_template.empty()
                   ? text::ChatTemplate::standard()
                   : text::ChatTemplate(config.chat_template, "the tokenizer's chat template")),
        options{.bos_token = config.bos_token, .eos_token = config.eos_token, .tools = nullptr} {}
};

void encode(Item& item, const DocumentEncoder& encoder, const Chat* chat, const text::MergeDropout& dropout) {
  if (!item.source.is_line()) {
    item.encoded.ids = encoder.encode(item.source.text, dropout);
    return;
  }
  const auto record = parse_record(item.source.text, item.source.place());
  if (!record) {
    return;
  }
  item.is_example = record->is_example;
  if (!record->messages.is_null()) {
    text::ChatOptions options = chat->options;
    options.tools = record->tools;
    try {
      item.encoded = encoder.conversation(chat->format, record->messages, options);
    } catch (const Error& error) {
      throw Error(fmt::format("{}: {}", item.source.place(), error.what()));
    }
  } else if (record->is_example) {
    item.encoded = encoder.completion(record->prompt, record->completion);
  } else {
    item.encoded.ids = encoder.encode(record->text, dropout);
  }
}

void write(const Item& item, const DocumentEncoder& encoder, TokenCacheWriter& writer) {
  if (item.is_example) {
    writer.add_example(item.encoded.ids, item.encoded.mask);
    return;
  }
  std::span<const int32_t> ids = item.encoded.ids;
  if (item.source.begins && !ids.empty()) {
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
  if (item.source.ends && writer.document_open()) {
    if (end) {
      writer.add(std::span(&*end, 1));
    }
    writer.end_document();
  }
}

void fill(TokenCacheWriter& writer, std::span<const Source> sources, const DocumentEncoder& encoder,
          const text::TokenizerConfig& config, const text::MergeDropout& dropout, const ProgressFn& progress) {
  // A template that is of no use to us must not keep anybody from training on plain text.
  std::optional<Chat> chat;
  if (std::any_of(sources.begin(), sources.end(), [](const Source& s) { return s.kind == SourceKind::kJsonLines; })) {
    chat.emplace(config);
  }
  SourceReader reader(sources, [&](std::string_view text, size_t limit) { return encoder.cut(text, limit); });
  std::vector<Item> items;
  int64_t done = 0;  // items of earlier groups: each has noise of its own, whatever thread cuts it
  for (std::vector<SourceItem> group = reader.next(); !group.empty(); group = reader.next()) {
    items.clear();
    for (SourceItem& item : group) {
      items.emplace_back().source = std::move(item);
    }
    parallel_for(static_cast<int64_t>(items.size()), 1, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        try {
          const uint64_t place = static_cast<uint64_t>(done) + i;
          encode(items[i], encoder, chat ? &*chat : nullptr, {dropout.rate, mix_bits(dropout.seed ^ mix_bits(place))});
        } catch (...) {
          items[i].error = std::current_exception();
        }
      }
    });
    for (const Item& item : items) {
      if (item.error) {
        std::rethrow_exception(item.error);
      }
      write(item, encoder, writer);
    }
    done += static_cast<int64_t>(items.size());
    reader.report("tokenising", progress);
  }
}

std::string identity_of(std::span<const Source> sources, const fs::path& tokenizer, const text::MergeDropout& dropout) {
  std::string text = fmt::format("version {}\n", kEncodingVersion);
  if (dropout.rate > 0) {
    text += fmt::format("dropout {} {}\n", dropout.rate, dropout.seed);
  }
  for (const char* name : {"", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"}) {
    const fs::path path = *name == '\0' ? tokenizer : tokenizer.parent_path() / name;
    std::error_code error;
    text += fs::exists(path, error) ? fingerprint_of(read_file(path)) : "none";
    text += '\n';
  }
  for (const Source& source : sources) {
    text += fmt::format("{} {} {} {}\n", fs::absolute(source.path).lexically_normal().string(), source.size,
                        source.modified, source.changed);
  }
  return fingerprint_of(text);
}

}  // namespace

TokenCache tokenize(std::span<const Source> sources, const fs::path& tokenizer_file, const fs::path& folder,
                    const ProgressFn& progress, const text::MergeDropout& dropout) {
  if (tokenizer_file.empty()) {
    throw UsageError(fmt::format("{}: text needs a tokenizer", sources.front().path.string()));
  }
  const std::string identity = identity_of(sources, tokenizer_file, dropout);
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
  text::TokenizerConfig config = text::TokenizerConfig::beside(tokenizer_file);
  const DocumentEncoder encoder(tokenizer, text::end_of_text(tokenizer, config));
  if (config.eos_token.empty() && encoder.end()) {
    config.eos_token = *tokenizer.id_to_token(*encoder.end());
  }
  {
    std::error_code ignored;
    fs::remove_all(place, ignored);  // damaged, or left behind by a process that was killed
    TokenCacheWriter writer(place, tokenizer.max_id());
    fill(writer, sources, encoder, config, dropout, progress);
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
