// A word starts as a chain of symbols, one per character. The pair with the lowest rank (of several, the leftmost) is
// merged until no pair of neighbours is in the table. A heap of (rank, position) finds it in logarithmic time; entries
// whose pair has changed since are recognised and skipped when they come up. So a word of a million characters takes
// n log n steps, and short words, which are most of them, come from a cache.
#include "mamba/text/bpe.h"

#include <algorithm>
#include <array>
#include <functional>

#include "mamba/base/mix_bits.h"
#include "mamba/text/byte_alphabet.h"
#include "mamba/text/unicode.h"

namespace mamba::text {
namespace {

constexpr size_t kCachedLength = 64;  // bytes of a word worth keeping
constexpr size_t kCachedWords = 1 << 16;

// A number in [0, 1), and the next state.
double draw(uint64_t& state) {
  const uint64_t bits = mix_bits(state);
  state += kSplitMixStep;
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

std::string byte_token(unsigned char byte) {
  return fmt::format("<0x{:02X}>", byte);
}

}  // namespace

struct Bpe::Word {
  struct Symbol {
    int32_t id;
    int32_t previous;
    int32_t next;
  };
  static constexpr int32_t kNone = -1;
  static constexpr int32_t kMerged = -2;  // as `id`: now part of a symbol before it

  std::vector<Symbol> symbols;
  std::vector<uint64_t> heap;  // rank << 32 | position

  void add(int32_t id) {
    const auto at = static_cast<int32_t>(symbols.size());
    if (at > 0) {
      symbols.back().next = at;
    }
    symbols.push_back({id, at - 1, kNone});
  }
};

Bpe Bpe::from_json(const JsonObject& tokenizer) {
  const JsonObject model = tokenizer.object("model");
  // Files from before models had a type are told by their merges.
  const std::string type = model.string_or("type", model.has("merges") ? "BPE" : "without a type");
  if (type != "BPE") {
    model.fail(fmt::format("tokenizer model {} is not supported: only BPE is", quote(type)));
  }
  Bpe bpe;
  if (model.has("unk_token")) {
    bpe.unknown_ = model.string("unk_token");
  }
  bpe.prefix_ = model.string_or("continuing_subword_prefix", "");
  bpe.suffix_ = model.string_or("end_of_word_suffix", "");
  bpe.fuse_unknown_ = model.boolean_or("fuse_unk", false);
  bpe.byte_fallback_ = model.boolean_or("byte_fallback", false);
  bpe.ignore_merges_ = model.boolean_or("ignore_merges", false);
  bpe.load_vocabulary(model);
  bpe.load_merges(model);
  return bpe;
}

void Bpe::load_vocabulary(const JsonObject& model) {
  const Json* vocabulary = model.find("vocab");
  if (vocabulary == nullptr || !vocabulary->is_object()) {
    model.fail("field \"model.vocab\" must be an object of tokens and ids");
  }
  ids_.reserve(vocabulary->size());
  tokens_.reserve(vocabulary->size());
  for (const auto& [token, value] : vocabulary->items()) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(kMaxId)) {
      model.fail(fmt::format("token {} must have an id from 0 to {}", quote(token), kMaxId));
    }
    const auto id = value.get<int32_t>();
    const auto added = ids_.emplace(token, id).first;
    tokens_[id] = &added->first;
    largest_id_ = std::max(largest_id_, id);
  }
  for (int b = 0; b < 256; ++b) {
    byte_ids_[b] = id(byte_character(static_cast<unsigned char>(b))).value_or(-1);
  }
  if (ignore_merges_) {
    whole_words_.reserve(ids_.size());
    for (const auto& [token, id] : ids_) {
      if (auto bytes = bytes_of_characters(token)) {
        whole_words_.emplace(std::move(*bytes), id);
      }
    }
  }
}

void Bpe::load_merges(const JsonObject& model) {
  const Json* merges = model.find("merges");
  if (merges == nullptr || !merges->is_array()) {
    model.fail("field \"model.merges\" must be a list");
  }
  merges_.reserve(merges->size());
  size_t rank = 0;
  for (size_t i = 0; i < merges->size(); ++i) {
    const Json& merge = (*merges)[i];
    if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      if (text.starts_with("#version")) {
        continue;
      }
      const size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        model.fail(fmt::format("merge {} must be two tokens with one space between them but is {}", i, quote(text)));
      }
      add_merge(model, rank++, std::string_view(text).substr(0, space), std::string_view(text).substr(space + 1));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      add_merge(model, rank++, merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>());
    } else {
      model.fail(fmt::format("merge {} must be a string or a pair of strings", i));
    }
  }
}

void Bpe::add_merge(const JsonObject& model, size_t rank, std::string_view left, std::string_view right) {
  const auto known = [&](std::string_view token) {
    const auto found = id(token);
    if (!found) {
      model.fail(fmt::format("merge {} ({} {}) needs the token {}, which is not in the vocabulary", rank, quote(left),
                             quote(right), quote(token)));
    }
    return *found;
  };
  const int32_t left_id = known(left);
  const int32_t right_id = known(right);
  if (right.size() < prefix_.size()) {
    model.fail(fmt::format("merge {}: {} is shorter than the prefix {}", rank, quote(right), quote(prefix_)));
  }
  std::string merged(left);
  merged += right.substr(prefix_.size());
  merges_.insert(left_id, right_id, {static_cast<uint32_t>(rank), known(merged)});
}

std::optional<int32_t> Bpe::id(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

const std::string* Bpe::token(int32_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : found->second;
}

void Bpe::add_symbols(std::string_view word, bool raw_bytes, Word& out) const {
  if (raw_bytes && prefix_.empty() && suffix_.empty()) {
    // Nearly every file has all 256 byte characters, and then this is all there is to do.
    for (unsigned char c : word) {
      if (byte_ids_[c] < 0) {
        out.symbols.clear();
        break;
      }
      out.add(byte_ids_[c]);
    }
    if (!out.symbols.empty()) {
      return;
    }
  }
  bool pending = false;  // an unknown token that waits for others to be fused with it
  int32_t unknown_id = -1;
  const auto flush = [&] {
    if (pending) {
      out.add(unknown_id);
      pending = false;
    }
  };
  std::string symbol;
  for (size_t at = 0; at < word.size();) {
    const size_t size = raw_bytes ? 1 : code_point_at(word, at).size;
    symbol = at > 0 ? prefix_ : "";
    symbol += raw_bytes ? byte_character(static_cast<unsigned char>(word[at])) : word.substr(at, size);
    at += size;
    if (at == word.size()) {
      symbol += suffix_;
    }
    if (const auto found = id(symbol)) {
      flush();
      out.add(*found);
      continue;
    }
    if (byte_fallback_) {
      std::vector<int32_t> bytes;
      for (unsigned char c : symbol) {
        if (const auto found = id(byte_token(c))) {
          bytes.push_back(*found);
        }
      }
      if (bytes.size() == symbol.size()) {  // a pending unknown token stays behind them, as in tokenizers
        for (int32_t byte : bytes) {
          out.add(byte);
        }
        continue;
      }
    }
    if (unknown_) {
      const auto found = id(*unknown_);
      check(found.has_value(), "the tokenizer's unknown token {} is not in its vocabulary", quote(*unknown_));
      unknown_id = *found;
      if (!fuse_unknown_) {
        flush();
      }
      pending = true;
    }
  }
  flush();
}

void Bpe::merge(Word& word, MergeDropout& dropout) const {
  auto& symbols = word.symbols;
  auto& heap = word.heap;
  heap.clear();
  const auto candidate = [&](int32_t at) -> const Merge* {
    const int32_t next = symbols[static_cast<size_t>(at)].next;
    return next == Word::kNone
               ? nullptr
               : merges_.find(symbols[static_cast<size_t>(at)].id, symbols[static_cast<size_t>(next)].id);
  };
  const auto entry = [](const Merge& merge, int32_t at) {
    return static_cast<uint64_t>(merge.rank) << 32 | static_cast<uint32_t>(at);
  };
  for (int32_t at = 0; at + 1 < static_cast<int32_t>(symbols.size()); ++at) {
    if (const Merge* merge = candidate(at)) {
      heap.push_back(entry(*merge, at));
    }
  }
  std::vector<uint64_t> left_out;
  const std::greater<> smallest_first;
  std::make_heap(heap.begin(), heap.end(), smallest_first);
  const auto offer = [&](int32_t at) {
    if (const Merge* merge = candidate(at)) {
      heap.push_back(entry(*merge, at));
      std::push_heap(heap.begin(), heap.end(), smallest_first);
    }
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), smallest_first);
    const uint64_t top = heap.back();
    heap.pop_back();
    const auto at = static_cast<int32_t>(top & 0xffffffffu);
    Word::Symbol& left = symbols[static_cast<size_t>(at)];
    if (left.id == Word::kMerged) {
      continue;
    }
    const Merge* merge = candidate(at);
    if (merge == nullptr || merge->rank != top >> 32) {
      continue;  // the pair has changed since
    }
    if (dropout.rate > 0 && draw(dropout.seed) < dropout.rate) {
      left_out.push_back(top);
      continue;
    }
    Word::Symbol& right = symbols[static_cast<size_t>(left.next)];
    left.id = merge->id;
    right.id = Word::kMerged;
    left.next = right.next;
    if (left.next != Word::kNone) {
      symbols[static_cast<size_t>(left.next)].previous = at;
    }
    if (left.previous != Word::kNone) {
      offer(left.previous);
    }
    offer(at);
    // What was left out is due again, as after every merge.
    for (const uint64_t again : left_out) {
      heap.push_back(again);
      std::push_heap(heap.begin(), heap.end(), smallest_first);
    }
    left_out.clear();
  }
}

void Bpe::encode(std::string_view word, bool raw_bytes, Scratch& scratch, std::vector<int32_t>& out) const {
  if (word.empty()) {
    return;
  }
  const bool noisy = scratch.dropout.rate > 0;
  if (ignore_merges_ && !noisy) {
    const auto& table = raw_bytes ? whole_words_ : ids_;
    if (const auto found = table.find(word); found != table.end()) {
      out.push_back(found->second);
      return;
    }
  }
  const bool cached = word.size() <= kCachedLength && !noisy;
  if (cached) {
    if (const auto found = scratch.seen.find(word); found != scratch.seen.end()) {
      const auto begin = scratch.seen_ids.begin() + found->second.begin;
      out.insert(out.end(), begin, begin + found->second.size);
      return;
    }
  }
  check(word.size() < (size_t{1} << 31), "a word of {} bytes is too long to be tokenized", word.size());
  thread_local Word symbols;
  symbols.symbols.clear();
  add_symbols(word, raw_bytes, symbols);
  merge(symbols, scratch.dropout);
  const size_t before = out.size();
  for (const Word::Symbol& symbol : symbols.symbols) {
    if (symbol.id != Word::kMerged) {
      out.push_back(symbol.id);
    }
  }
  if (cached && scratch.seen.size() < kCachedWords) {
    const auto size = static_cast<uint32_t>(out.size() - before);
    scratch.seen.emplace(word, Scratch::Slice{static_cast<uint32_t>(scratch.seen_ids.size()), size});
    scratch.seen_ids.insert(scratch.seen_ids.end(), out.begin() + static_cast<ptrdiff_t>(before), out.end());
  }
  constexpr size_t kKeptSymbols = 1 << 16;
  if (symbols.symbols.capacity() > kKeptSymbols) {  // one huge word must not hold its memory for the thread's life
    symbols = Word();
  }
}

}  // namespace mamba::text
