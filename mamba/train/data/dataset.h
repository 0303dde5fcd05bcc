// Training data as token ids, whatever files it comes from (docs/data.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "mamba/base/progress.h"
#include "mamba/train/data/examples.h"
#include "mamba/train/data/token_stream.h"

namespace mamba::train {

struct DatasetOptions {
  // Ids must lie in [0, vocab_size). Also tells what a .bin holds: uint16 where the vocabulary has at most 65536
  // tokens, else uint32.
  int64_t vocab_size = 0;
  // A tokenizer.json, with its tokenizer_config.json and chat_template.jinja beside it. Needed for text.
  std::filesystem::path tokenizer;
  // Where tokenised text is kept; empty: "datasets" in cache_directory() (base/file.h).
  std::filesystem::path cache;
  // Text is read this many times, one copy behind the other: the first time as it is, then each time cut into tokens in
  // another way (text/bpe.h). Only for plain text.
  int segmentations = 1;
  double bpe_dropout = 0;
  ProgressFn progress;
};

struct DatasetStatistics {
  int64_t files = 0;
  int64_t bytes = 0;      // of all files
  int64_t documents = 0;  // examples not counted
  int64_t examples = 0;
  int64_t tokens = 0;  // of documents and examples, with the end-of-text tokens that were added
};

// Immutable and thread-safe. Not movable, since windows refer to it: held by shared_ptr.
class Dataset {
 public:
  // `paths`: files and folders. Text comes first, in the order of the paths, then files of tokens. Throws UsageError
  // where nothing can come of the paths or the options, ParseError and Error for files that are not what they should
  // be, and Error for an id outside the vocabulary, naming position and value.
  static std::shared_ptr<const Dataset> open(const std::vector<std::filesystem::path>& paths,
                                             const DatasetOptions& options);
  // A stream of ids from memory. Throws as open() does.
  static std::shared_ptr<const Dataset> from_tokens(std::vector<int32_t> tokens, int64_t vocab_size);

  ~Dataset();
  Dataset(const Dataset&) = delete;
  Dataset& operator=(const Dataset&) = delete;

  const TokenStream& stream() const { return stream_; }
  // False where the whole of stream() is one stream of tokens without a beginning: no resets, no ignored targets.
  bool has_documents() const { return has_documents_; }
  const Examples& examples() const { return examples_; }
  // Tokens [begin, end) of stream() are text cut in other ways than it will be in use (DatasetOptions::segmentations).
  struct Range {
    int64_t begin = 0;
    int64_t end = 0;
  };
  Range varied() const { return varied_; }
  const DatasetStatistics& statistics() const { return statistics_; }
  // 32 hexadecimal digits that change with any token, document or mark: a resumed run must see the data that it saw.
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  Dataset();

  struct Storage;
  std::unique_ptr<Storage> storage_;
  TokenStream stream_;
  Examples examples_;
  bool has_documents_ = true;
  Range varied_;
  DatasetStatistics statistics_;
  std::string fingerprint_;
};

}  // namespace mamba::train
