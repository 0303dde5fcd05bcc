#include "mamba/train/data/dataset.h"

#include <algorithm>
#include <deque>

#include "mamba/base/error.h"
#include "mamba/base/file.h"
#include "mamba/train/data/checksum.h"
#include "mamba/train/data/sources.h"
#include "mamba/train/data/token_file.h"
#include "mamba/train/data/tokenize.h"

namespace mamba::train {

namespace fs = std::filesystem;

// What the views of the dataset look into. Deques: addresses stay.
struct Dataset::Storage {
  std::deque<TokenCache> caches;
  std::deque<TokenFile> files;
  std::deque<std::vector<int32_t>> tokens;
};

Dataset::Dataset() : storage_(std::make_unique<Storage>()) {}
Dataset::~Dataset() = default;

namespace {

TokenArray view_of(const std::vector<int32_t>& tokens) {
  return {reinterpret_cast<const std::byte*>(tokens.data()),
          static_cast<int64_t>(tokens.size()),
          {.size = 4, .is_signed = true, .big_endian = false}};
}

}  // namespace

std::shared_ptr<const Dataset> Dataset::from_tokens(std::vector<int32_t> tokens, int64_t vocab_size) {
  const std::shared_ptr<Dataset> dataset(new Dataset);
  const TokenArray view = view_of(dataset->storage_->tokens.emplace_back(std::move(tokens)));
  if (const auto outside = view.first_outside(0, view.size(), vocab_size)) {
    throw Error(fmt::format("token {} at position {} is outside the vocabulary of {}", outside->value,
                            outside->position, vocab_size));
  }
  dataset->stream_.append(view, DocumentStarts::regular(1, view.size()));
  dataset->has_documents_ = false;
  const std::vector<int32_t>& held = dataset->storage_->tokens.back();
  dataset->fingerprint_ = fingerprint_of({reinterpret_cast<const char*>(held.data()), held.size() * sizeof(int32_t)});
  dataset->statistics_.documents = 1;
  dataset->statistics_.tokens = view.size();
  return dataset;
}

std::shared_ptr<const Dataset> Dataset::open(const std::vector<fs::path>& paths, const DatasetOptions& options) {
  if (options.vocab_size < 1) {
    throw UsageError("DatasetOptions::vocab_size must say how many tokens the vocabulary has");
  }
  const std::vector<Source> sources = find_sources(paths);
  const std::shared_ptr<Dataset> dataset(new Dataset);
  std::vector<Source> texts;
  std::string content;
  for (const Source& source : sources) {
    dataset->statistics_.bytes += static_cast<int64_t>(source.size);
    if (source.kind == SourceKind::kText || source.kind == SourceKind::kJsonLines) {
      texts.push_back(source);
    }
  }
  if (!texts.empty()) {
    const fs::path folder = options.cache.empty() ? cache_directory() / "datasets" : options.cache;
    for (int copy = 0; copy < std::max(1, options.segmentations); ++copy) {
      const text::MergeDropout dropout{copy == 0 ? 0 : options.bpe_dropout, static_cast<uint64_t>(copy)};
      const TokenCache& cache =
          dataset->storage_->caches.emplace_back(tokenize(texts, options.tokenizer, folder, options.progress, dropout));
      check(cache.counts().largest_id < options.vocab_size,
            "{}: the tokenizer gives id {} for this data, outside the model's vocabulary of {}: it is another model's",
            options.tokenizer.string(), cache.counts().largest_id, options.vocab_size);
      content += cache.content();
      dataset->stream_.append(cache.documents().tokens, DocumentStarts::listed(cache.documents().starts));
      dataset->varied_.end = dataset->stream_.size();
      if (copy == 0) {
        dataset->varied_.begin = dataset->stream_.size();
      }
      dataset->examples_ = Examples(cache.examples().tokens, cache.examples().starts, cache.examples().mask);
    }
    if (options.segmentations > 1 && dataset->examples_.count() > 0) {
      throw UsageError("BPE dropout is for plain text: this data has examples with prompts or messages");
    }
  }
  for (const Source& source : sources) {
    if (source.kind == SourceKind::kNpy || source.kind == SourceKind::kBin) {
      const TokenFile& file =
          dataset->storage_->files.emplace_back(open_token_file(source, options.vocab_size, options.progress));
      dataset->stream_.append(file.tokens, DocumentStarts::regular(file.rows, file.tokens.size() / file.rows));
      dataset->has_documents_ = sources.size() > 1 || !file.is_stream;
      content += fmt::format(" {:016x}", BlockChecksum::of(file.file));
    }
  }
  dataset->fingerprint_ = fingerprint_of(content);
  dataset->statistics_.files = static_cast<int64_t>(sources.size());
  dataset->statistics_.documents = dataset->stream_.document_count();
  dataset->statistics_.examples = dataset->examples_.count();
  dataset->statistics_.tokens = dataset->stream_.size() + dataset->examples_.size();
  return dataset;
}

}  // namespace mamba::train
