#include "mamba/train/data/document_encoder.h"

#include <algorithm>

#include "mamba/text/unicode.h"

namespace mamba::train {
namespace {

constexpr size_t kContext = 256;            // bytes on each side of a cut that are compared
constexpr int kTries = 32;                  // places of each kind
constexpr size_t kReach = size_t{1} << 15;  // bytes before the limit that are searched

bool is_blank(char c) {
  return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

size_t character_start(std::string_view text, size_t at) {
  while (at > 0 && at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) {
    --at;
  }
  return at;
}

}  // namespace

DocumentEncoder::DocumentEncoder(const text::Tokenizer& tokenizer, std::optional<int32_t> end)
    : tokenizer_(tokenizer), end_(end) {
  const std::vector<int32_t> plain = tokenizer.encode("a", false);
  const std::vector<int32_t> framed = tokenizer.encode("a", true);
  const auto found = std::search(framed.begin(), framed.end(), plain.begin(), plain.end());
  prefix_.assign(framed.begin(), plain.empty() ? framed.begin() : found);
}

EncodedExample DocumentEncoder::completion(std::string_view prompt, std::string_view completion) const {
  EncodedExample out;
  out.ids = prefix_;
  const std::vector<int32_t> question = encode(prompt);
  out.ids.insert(out.ids.end(), question.begin(), question.end());
  out.mask.assign(out.ids.size(), 0);
  const std::vector<int32_t> answer = encode(completion);
  out.ids.insert(out.ids.end(), answer.begin(), answer.end());
  if (end_ && (answer.empty() || answer.back() != *end_)) {
    out.ids.push_back(*end_);
  }
  out.mask.resize(out.ids.size(), 1);
  return out;
}

EncodedExample DocumentEncoder::conversation(const text::ChatTemplate& chat, const nlohmann::ordered_json& messages,
                                             const text::ChatOptions& options) const {
  const text::ChatTemplate::Answers answers = chat.render_with_answers(messages, options);
  EncodedExample out;
  const auto append = [&](size_t begin, size_t end, uint8_t mark) {
    const std::vector<int32_t> ids = encode(std::string_view(answers.text).substr(begin, end - begin));
    out.ids.insert(out.ids.end(), ids.begin(), ids.end());
    out.mask.resize(out.ids.size(), mark);
  };
  size_t done = 0;
  for (const auto& [begin, end] : answers.spans) {
    append(done, begin, 0);
    append(begin, end, 1);
    done = end;
  }
  append(done, answers.text.size(), 0);
  return out;
}

bool DocumentEncoder::can_cut(std::string_view text, size_t at) const {
  const size_t begin = character_start(text, at > kContext ? at - kContext : 0);
  const size_t end = character_start(text, std::min(text.size(), at + kContext));
  std::vector<int32_t> parts = encode(text.substr(begin, at - begin));
  const std::vector<int32_t> behind = encode(text.substr(at, end - at));
  parts.insert(parts.end(), behind.begin(), behind.end());
  return encode(text.substr(begin, end - begin)) == parts;
}

size_t DocumentEncoder::cut(std::string_view text, size_t limit) const {
  const size_t lowest = limit > kReach ? limit - kReach : 1;
  // Before a line's or a word's blank: tokenizers join blanks with what follows, or with other blanks.
  for (const char blank : {'\n', ' '}) {
    int tries = 0;
    for (size_t at = limit; at >= lowest && tries < kTries; --at) {
      if (text[at] == blank && !is_blank(text[at - 1]) && at + 1 < text.size() && !is_blank(text[at + 1])) {
        if (can_cut(text, at)) {
          return at;
        }
        ++tries;
      }
    }
  }
  const size_t nearest = character_start(text, limit);
  size_t at = nearest;
  for (int tries = 0; tries < 4 * kTries && at > lowest; ++tries) {
    if (can_cut(text, at)) {
      return at;
    }
    at = character_start(text, at - 1);
  }
  return nearest > 0 ? nearest : limit;
}

}  // namespace mamba::train
