// Tokenised text on disk: one folder, columns of plain numbers, and a meta.json that comes last and vouches for them.
//
//   documents.tokens   uint16 or uint32, one document behind the other
//   documents.starts   uint64, where each begins, and the end
//   examples.tokens, examples.starts, examples.mask   the same, and a byte for each token: 1 where it is to be learnt
//   meta.json          what was tokenised with what, sizes and checksums
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mamba/base/file.h"
#include "mamba/base/json.h"
#include "mamba/train/data/checksum.h"
#include "mamba/train/data/token_array.h"

namespace mamba::train {

// What is known of the tokens besides.
struct TokenCounts {
  int64_t documents = 0;
  int64_t examples = 0;
  int64_t tokens = 0;
  int32_t largest_id = -1;
};

class TokenCache {
 public:
  // Nothing where `folder` holds no whole, undamaged cache of `identity`: every byte is looked at.
  static std::optional<TokenCache> open(const std::filesystem::path& folder, const std::string& identity);

  struct Column {
    TokenArray tokens;
    std::span<const uint64_t> starts;  // one more than there are documents
    std::span<const uint8_t> mask;     // of examples only
  };
  const Column& documents() const { return documents_; }
  const Column& examples() const { return examples_; }
  const TokenCounts& counts() const { return counts_; }
  // The same for the same tokens, documents and marks, however they came about.
  const std::string& content() const { return content_; }

 private:
  TokenCache() = default;

  std::vector<MappedFile> files_;
  Column documents_;
  Column examples_;
  TokenCounts counts_;
  std::string content_;
};

// Writes a cache as it grows. Nothing is in place before commit(); without it, nothing stays. Not thread-safe.
class TokenCacheWriter {
 public:
  // `largest_id` of the tokenizer decides between uint16 and uint32. Makes `folder`. Throws Error.
  TokenCacheWriter(const std::filesystem::path& folder, int32_t largest_id);
  ~TokenCacheWriter();

  // Appends to the document that is open, or opens one.
  void add(std::span<const int32_t> ids);
  void end_document();  // without effect when none is open
  bool document_open() const;

  // Requires as many marks as ids, and no open document is touched.
  void add_example(std::span<const int32_t> ids, std::span<const uint8_t> mask);

  void commit(const std::string& identity);

 private:
  struct Columns;
  std::filesystem::path folder_;
  int token_size_;
  std::unique_ptr<Columns> columns_;
  TokenCounts counts_;
};

}  // namespace mamba::train
