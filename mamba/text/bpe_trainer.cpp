#include "mamba/text/bpe_trainer.h"

#include <algorithm>
#include <mutex>
#include <numeric>
#include <optional>
#include <unordered_map>

#include "mamba/base/json.h"
#include "mamba/base/threads.h"
#include "mamba/base/warning.h"
#include "mamba/text/added_tokens.h"
#include "mamba/text/bpe_merges.h"
#include "mamba/text/byte_alphabet.h"
#include "mamba/text/gpt2_words.h"
#include "mamba/text/unicode.h"
#include "mamba/text/word_counts.h"

namespace mamba::text {
namespace {

constexpr int64_t kBytes = 256;
constexpr int64_t kMaxVocab = int64_t{1} << 24;

void count_words(std::string_view text, WordCounts& counts) {
  for (size_t at = 0; at < text.size();) {
    const size_t end = gpt2_word_end(text, at);
    counts.add(text.substr(at, end - at));
    at = end;
  }
}

}  // namespace

struct BpeTrainer::Counts {
  TokenFinder special;
  std::mutex mutex;
  std::vector<std::unique_ptr<WordCounts>> idle;  // one for each thread that ever counted

  std::unique_ptr<WordCounts> take() {
    const std::lock_guard lock(mutex);
    if (idle.empty()) {
      return std::make_unique<WordCounts>();
    }
    std::unique_ptr<WordCounts> out = std::move(idle.back());
    idle.pop_back();
    return out;
  }
  void give(std::unique_ptr<WordCounts> counts) {
    const std::lock_guard lock(mutex);
    idle.push_back(std::move(counts));
  }

  void count(std::string_view text, WordCounts& counts) const {
    std::string well_formed;
    if (well_formed_prefix(text) != text.size()) {
      well_formed = replace_ill_formed(text);
      text = well_formed;
    }
    size_t begin = 0;
    for (size_t at = 0; at < text.size();) {
      const auto found = special.at(text, at);
      if (!found) {
        ++at;
        continue;
      }
      count_words(text.substr(begin, at - begin), counts);
      at += found->size;
      begin = at;
    }
    count_words(text.substr(begin), counts);
  }
};

BpeTrainer::BpeTrainer(BpeTrainerOptions options) : options_(std::move(options)), counts_(std::make_unique<Counts>()) {
  const int64_t least = kBytes + static_cast<int64_t>(options_.special_tokens.size());
  if (options_.vocab_size < least || options_.vocab_size > kMaxVocab) {
    throw UsageError(fmt::format(
        "a byte-level vocabulary has {} to {} tokens, one for each byte and each special token, but {} were asked for",
        least, kMaxVocab, options_.vocab_size));
  }
  for (const std::string& token : options_.special_tokens) {
    counts_->special.add(token, 0);
  }
}

BpeTrainer::~BpeTrainer() = default;

void BpeTrainer::count(std::span<const std::string> texts) {
  parallel_for(static_cast<int64_t>(texts.size()), 1, [&](int64_t begin, int64_t end) {
    std::unique_ptr<WordCounts> counts = counts_->take();
    for (int64_t i = begin; i < end; ++i) {
      counts_->count(texts[static_cast<size_t>(i)], *counts);
    }
    counts_->give(std::move(counts));
  });
}

std::string BpeTrainer::train(const ProgressFn& progress) const {
  // Ids: special tokens, then bytes in the order of the characters that stand for them, then merges.
  std::vector<std::string> tokens = options_.special_tokens;
  std::vector<int> bytes(kBytes);
  std::iota(bytes.begin(), bytes.end(), 0);
  const auto character = [](int byte) { return byte_character(static_cast<unsigned char>(byte)); };
  // The order of UTF-8 strings is that of their code points.
  std::sort(bytes.begin(), bytes.end(), [&](int a, int b) { return character(a) < character(b); });
  int32_t id_of_byte[kBytes];
  for (const int byte : bytes) {
    id_of_byte[byte] = static_cast<int32_t>(tokens.size());
    tokens.emplace_back(character(byte));
  }

  WordCounts all;
  for (const auto& counts : counts_->idle) {
    counts->for_each([&](std::string_view word, int64_t count) { all.add(word, count); });
  }
  std::vector<CountedWord> words;
  words.reserve(all.size());
  all.for_each([&](std::string_view word, int64_t count) {
    CountedWord& out = words.emplace_back(CountedWord{{}, count});
    out.ids.reserve(word.size());
    for (const char c : word) {
      out.ids.push_back(id_of_byte[static_cast<unsigned char>(c)]);
    }
  });

  using Ordered = OrderedJson;  // a vocabulary is read by people, in the order of its ids
  Ordered merges = Ordered::array();
  std::unordered_map<std::string, int32_t> ids;
  for (const std::string& token : tokens) {
    ids.emplace(token, static_cast<int32_t>(ids.size()));
  }
  learn_merges(std::move(words), [&](int32_t left, int32_t right) -> std::optional<int32_t> {
    const auto size = static_cast<int64_t>(tokens.size());
    if (size == options_.vocab_size) {
      return std::nullopt;
    }
    if (progress && size % 256 == 0) {
      progress({.what = "learning tokens", .done = size, .total = options_.vocab_size, .unit = "tokens"});
    }
    const std::string& a = tokens[static_cast<size_t>(left)];
    const std::string& b = tokens[static_cast<size_t>(right)];
    merges.push_back(Ordered::array({a, b}));
    // Two pairs may make one token.
    const auto [place, is_new] = ids.emplace(a + b, static_cast<int32_t>(size));
    if (is_new) {
      tokens.push_back(place->first);
    }
    return place->second;
  });
  const auto made = static_cast<int64_t>(tokens.size());
  if (progress) {
    progress({.what = "learning tokens", .done = made, .total = made, .unit = "tokens", .finished = true});
  }
  if (static_cast<int64_t>(tokens.size()) < options_.vocab_size) {
    warn_once(fmt::format("the text gives {} tokens, fewer than the {} that were asked for: every word is one token",
                          tokens.size(), options_.vocab_size));
  }
  std::string vocab = "{";
  for (size_t id = 0; id < tokens.size(); ++id) {
    vocab += fmt::format("{}{}: {}", id == 0 ? "" : ", ", json_text(Ordered(tokens[id])), id);
  }
  vocab += "}";

  Ordered added = Ordered::array();
  for (size_t id = 0; id < options_.special_tokens.size(); ++id) {
    added.push_back(Ordered{{"id", id},
                            {"content", options_.special_tokens[id]},
                            {"single_word", false},
                            {"lstrip", false},
                            {"rstrip", false},
                            {"normalized", false},
                            {"special", true}});
  }
  const Ordered byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  // The vocabulary is put in as text: the library looks for each new key among all before it.
  const std::string head = json_text(Ordered{{"version", "1.0"},
                                             {"truncation", nullptr},
                                             {"padding", nullptr},
                                             {"added_tokens", added},
                                             {"normalizer", nullptr},
                                             {"pre_tokenizer", byte_level},
                                             {"post_processor", byte_level},
                                             {"decoder", byte_level}});
  const std::string model = json_text(Ordered{{"type", "BPE"},
                                              {"dropout", nullptr},
                                              {"unk_token", nullptr},
                                              {"continuing_subword_prefix", nullptr},
                                              {"end_of_word_suffix", nullptr},
                                              {"fuse_unk", false},
                                              {"byte_fallback", false},
                                              {"ignore_merges", false}});
  return fmt::format("{},\n\"model\": {},\n\"vocab\": {},\n\"merges\": {}}}}}\n", head.substr(0, head.size() - 1),
                     model.substr(0, model.size() - 1), vocab, json_text(merges));
}

std::string BpeTrainer::config() const {
  OrderedJson config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                        {"add_prefix_space", false},
                        {"clean_up_tokenization_spaces", false}};
  if (!options_.special_tokens.empty()) {
    for (const char* role : {"bos_token", "eos_token", "pad_token"}) {
      config[role] = options_.special_tokens.front();
    }
  }
  return json_text(config, 2) + "\n";
}

}  // namespace mamba::text
