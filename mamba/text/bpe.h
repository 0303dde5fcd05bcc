// The "model" of a tokenizer.json: byte-pair encoding.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "mamba/base/json.h"
#include "mamba/text/pair_map.h"

namespace mamba::text {

// Lets maps with string keys be searched by views.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
using TokenIds = std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>>;

// BPE dropout (Provilkov et al. 2020, "BPE-Dropout: Simple and Effective Subword Regularization"): each time a merge is
// due it is left out with this probability, so that a text is cut into tokens in ever new ways.
struct MergeDropout {
  double rate = 0;    // from 0 to 1, which leaves single bytes
  uint64_t seed = 0;  // the same seed cuts the same text the same way
};

class Bpe {
 public:
  // What one thread reuses from word to word: the ids of short words seen before, keyed by views that must stay valid
  // as long as this does.
  struct Scratch {
    struct Slice {
      uint32_t begin;
      uint32_t size;
    };
    std::unordered_map<std::string_view, Slice> seen;
    std::vector<int32_t> seen_ids;
    MergeDropout dropout = {};  // its seed goes on with each draw; where the rate is not 0, nothing is kept
  };

  // Merges may be "a b" strings or ["a", "b"] pairs. The file's "dropout" is ignored: it is for training. Throws
  // ParseError, also when the type is another model's (Unigram, WordPiece, WordLevel), and for ids above kMaxId.
  static Bpe from_json(const JsonObject& tokenizer);
  static constexpr int32_t kMaxId = INT32_MAX - (1 << 24);  // leaves room for added tokens

  // Appends the ids of one word. With `raw_bytes` the word is the bytes that characters of the byte alphabet stand
  // for. Characters outside the vocabulary become byte tokens, the unknown token, or nothing, as the file says.
  void encode(std::string_view word, bool raw_bytes, Scratch& scratch, std::vector<int32_t>& out) const;

  int64_t size() const { return static_cast<int64_t>(ids_.size()); }
  std::optional<int32_t> id(std::string_view token) const;
  const std::string* token(int32_t id) const;         // null when there is none
  int32_t largest_id() const { return largest_id_; }  // -1 when the vocabulary is empty

 private:
  struct Word;

  void load_vocabulary(const JsonObject& model);
  void load_merges(const JsonObject& model);
  void add_merge(const JsonObject& model, size_t rank, std::string_view left, std::string_view right);
  void add_symbols(std::string_view word, bool raw_bytes, Word& out) const;
  void merge(Word& word, MergeDropout& dropout) const;

  TokenIds ids_;
  std::unordered_map<int32_t, const std::string*> tokens_;  // into ids_' keys, which do not move
  TokenIds whole_words_;                                    // with ignore_merges: ids by raw bytes
  int32_t byte_ids_[256];                                   // of single byte characters, -1: none
  PairMap merges_;
  int32_t largest_id_ = -1;
  std::optional<std::string> unknown_;
  std::string prefix_;  // of symbols that continue a word
  std::string suffix_;  // of a word's last symbol
  bool fuse_unknown_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
};

}  // namespace mamba::text
