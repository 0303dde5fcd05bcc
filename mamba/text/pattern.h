// What splits and replaces: a literal string or an Oniguruma pattern, as tokenizer.json writes them.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "mamba/base/json.h"

namespace mamba::text {

class Pattern {
 public:
  // `value` is {"String": "..."} or {"Regex": "..."}. Throws ParseError when it is neither, or the pattern's error.
  static Pattern from_json(const JsonObject& owner, const std::string& key);

  // Throws ParseError naming `file`. \p{L} and the other general categories mean what they mean to Hugging Face's
  // tokenizers, also where the installed Oniguruma knows an older version of Unicode.
  static Pattern regex(const std::string& source, const std::string& file);

  // Matches `text`, which must not be empty, as it stands.
  static Pattern literal(std::string text);

  // Calls visit(begin, end, is_match) for consecutive stretches that cover `text`; matches may be empty, but not right
  // behind another match. An empty text is one stretch without match. Requires well-formed UTF-8. Throws Error when
  // the pattern takes too many steps: the limit grows with the text, so that no pattern hangs.
  using Visit = std::function<void(size_t begin, size_t end, bool is_match)>;
  void for_each(std::string_view text, const Visit& visit) const;

 private:
  struct Compiled;
  std::string literal_;  // where there is no regex
  std::shared_ptr<const Compiled> compiled_;
};

}  // namespace mamba::text
