#include "mamba/text/normalizer.h"

#include <map>

#include "mamba/text/byte_alphabet.h"
#include "mamba/text/json_list.h"
#include "mamba/text/pattern.h"
#include "mamba/text/unicode.h"

namespace mamba::text {
namespace {

class ToForm : public NormalizerStep {
 public:
  explicit ToForm(NormalForm form) : form_(form) {}
  std::string apply(std::string text, size_t /*limit*/) const override { return normalize(text, form_); }

 private:
  NormalForm form_;
};

class Lowercase : public NormalizerStep {
 public:
  std::string apply(std::string text, size_t /*limit*/) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      const CodePoint c = code_point_at(text, at);
      append_lower(out, c.value);
      at += c.size;
    }
    return out;
  }
};

class Strip : public NormalizerStep {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  std::string apply(std::string text, size_t /*limit*/) const override {
    size_t begin = 0;
    size_t end = text.size();
    while (left_ && begin < end) {
      const CodePoint c = code_point_at(text, begin);
      if (!is_whitespace(c.value)) {
        break;
      }
      begin += c.size;
    }
    while (right_ && end > begin) {
      const size_t at = previous_character(text, end);
      if (!is_whitespace(code_point_at(text, at).value)) {
        break;
      }
      end = at;
    }
    return text.substr(begin, end - begin);
  }

 private:
  bool left_;
  bool right_;
};

class Replace : public NormalizerStep {
 public:
  Replace(Pattern pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}
  std::string apply(std::string text, size_t limit) const override {
    return replace_matches(pattern_, content_, text, limit);
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class Prepend : public NormalizerStep {
 public:
  explicit Prepend(std::string content) : content_(std::move(content)) {}
  std::string apply(std::string text, size_t /*limit*/) const override { return text.empty() ? text : content_ + text; }

 private:
  std::string content_;
};

class BytesToCharacters : public NormalizerStep {
 public:
  std::string apply(std::string text, size_t /*limit*/) const override {
    std::string out;
    out.reserve(text.size());
    append_as_characters(out, text);
    return out;
  }
};

}  // namespace

size_t growth_limit(size_t size) {
  return (size_t{16} << 20) + 64 * size;
}

void check_growth(size_t size, size_t limit) {
  check(size <= limit, "the tokenizer's replacements make the text longer than {} bytes: its file is broken", limit);
}

std::string replace_matches(const Pattern& pattern, const std::string& content, std::string_view text, size_t limit) {
  std::string out;
  pattern.for_each(text, [&](size_t begin, size_t end, bool is_match) {
    if (is_match) {
      out += content;
      check_growth(out.size(), limit);
    } else {
      out += text.substr(begin, end - begin);
    }
  });
  return out;
}

Normalizer Normalizer::from_json(const JsonObject& tokenizer) {
  Normalizer normalizer;
  if (tokenizer.has("normalizer")) {
    normalizer.add(tokenizer.object("normalizer"));
  }
  return normalizer;
}

void Normalizer::add(const JsonObject& value) {
  const std::string type = value.string("type");
  static const std::map<std::string, NormalForm> kForms = {
      {"NFC", NormalForm::kNfc}, {"NFD", NormalForm::kNfd}, {"NFKC", NormalForm::kNfkc}, {"NFKD", NormalForm::kNfkd}};
  if (const auto form = kForms.find(type); form != kForms.end()) {
    steps_.push_back(std::make_shared<ToForm>(form->second));
  } else if (type == "Lowercase") {
    steps_.push_back(std::make_shared<Lowercase>());
  } else if (type == "Strip") {
    steps_.push_back(
        std::make_shared<Strip>(value.boolean_or("strip_left", true), value.boolean_or("strip_right", true)));
  } else if (type == "Replace") {
    steps_.push_back(std::make_shared<Replace>(Pattern::from_json(value, "pattern"), value.string("content")));
  } else if (type == "Prepend") {
    steps_.push_back(std::make_shared<Prepend>(value.string("prepend")));
  } else if (type == "ByteLevel") {
    steps_.push_back(std::make_shared<BytesToCharacters>());
  } else if (type == "Sequence") {
    for (const JsonObject& item : objects_in(value, "normalizers")) {
      add(item);
    }
  } else {
    value.fail(fmt::format("normalizer {} is not supported", quote(type)));
  }
}

std::string Normalizer::apply(std::string text) const {
  const size_t limit = growth_limit(text.size());
  for (const auto& step : steps_) {
    text = step->apply(std::move(text), limit);
    check_growth(text.size(), limit);
  }
  return text;
}

}  // namespace mamba::text
