// The "normalizer" of a tokenizer.json: rewrites the text before it is split.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "mamba/base/json.h"

namespace mamba::text {

// One step. Thread-safe after construction.
class NormalizerStep {
 public:
  virtual ~NormalizerStep() = default;
  // Requires and keeps well-formed UTF-8. Gives up with an Error beyond `limit` bytes.
  virtual std::string apply(std::string text, size_t limit) const = 0;
};

class Normalizer {
 public:
  Normalizer() = default;  // leaves the text alone

  // NFC, NFD, NFKC, NFKD, Lowercase, Strip, Replace, Prepend, ByteLevel and Sequence; null and absent mean none.
  // Throws ParseError that names any other type.
  static Normalizer from_json(const JsonObject& tokenizer);

  bool empty() const { return steps_.empty(); }

  // Throws Error when replacements would make the text longer than growth_limit().
  std::string apply(std::string text) const;

 private:
  void add(const JsonObject& value);

  std::vector<std::shared_ptr<const NormalizerStep>> steps_;
};

// Bytes that `size` bytes of text may become: far more than a real tokenizer asks for, and a bound on what a broken
// file (a hundred replacements of "a" by "aa") takes.
size_t growth_limit(size_t size);
void check_growth(size_t size, size_t limit);

// What both the normalizer and the decoder "Replace" do: every match of the pattern becomes `content`.
class Pattern;
std::string replace_matches(const Pattern& pattern, const std::string& content, std::string_view text, size_t limit);

}  // namespace mamba::text
