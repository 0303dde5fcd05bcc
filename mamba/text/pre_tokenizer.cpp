#include "mamba/text/pre_tokenizer.h"

#include "mamba/text/byte_alphabet.h"
#include "mamba/text/gpt2_words.h"
#include "mamba/text/json_list.h"
#include "mamba/text/split.h"
#include "mamba/text/unicode.h"

namespace mamba::text {

std::string character_in(const JsonObject& owner, const std::string& key) {
  std::string text = owner.string(key);
  if (text.empty() || code_point_at(text, 0).size != text.size()) {
    owner.fail(fmt::format("field {} must be one character but is {}", quote(key), quote(text)));
  }
  return text;
}

namespace {

// Words get `prefix` in front unless they begin with it.
class AddPrefix : public PreTokenizerStep {
 public:
  AddPrefix(std::string prefix, bool only_at_start) : prefix_(std::move(prefix)), only_at_start_(only_at_start) {}
  void apply(Words& words) const override {
    for (Words::Word& word : words.list) {
      if (!word.text.starts_with(prefix_) && (word.at_start || !only_at_start_)) {
        word.text = words.owned.emplace_back(prefix_ + std::string(word.text));
      }
    }
  }

 private:
  std::string prefix_;
  bool only_at_start_;
};

class ReplaceSpaces : public PreTokenizerStep {
 public:
  explicit ReplaceSpaces(std::string content) : content_(std::move(content)) {}
  void apply(Words& words) const override {
    for (Words::Word& word : words.list) {
      if (word.text.find(' ') == std::string_view::npos) {
        continue;
      }
      std::string& out = words.owned.emplace_back();
      for (char c : word.text) {
        if (c == ' ') {
          out += content_;
        } else {
          out += c;
        }
      }
      word.text = out;
    }
  }

 private:
  std::string content_;
};

class SplitGpt2Words : public PreTokenizerStep {
 public:
  void apply(Words& words) const override {
    std::vector<Words::Word> out;
    for (const Words::Word& word : words.list) {
      for (size_t begin = 0; begin < word.text.size();) {
        const size_t end = gpt2_word_end(word.text, begin);
        out.push_back({word.text.substr(begin, end - begin), word.at_start && begin == 0});
        begin = end;
      }
    }
    words.list = std::move(out);
  }
};

class ToByteCharacters : public PreTokenizerStep {
 public:
  void apply(Words& words) const override {
    for (Words::Word& word : words.list) {
      std::string& out = words.owned.emplace_back();
      append_as_characters(out, word.text);
      word.text = out;
    }
  }
};

class FixedLength : public PreTokenizerStep {
 public:
  explicit FixedLength(size_t length) : length_(length) {}
  void apply(Words& words) const override {
    std::vector<Words::Word> out;
    for (const Words::Word& word : words.list) {
      for (size_t begin = 0; begin < word.text.size();) {
        size_t end = begin;
        for (size_t i = 0; i < length_ && end < word.text.size(); ++i) {
          end += code_point_at(word.text, end).size;
        }
        out.push_back({word.text.substr(begin, end - begin), word.at_start && begin == 0});
        begin = end;
      }
    }
    words.list = std::move(out);
  }

 private:
  size_t length_;
};

}  // namespace

PreTokenizer PreTokenizer::from_json(const JsonObject& tokenizer) {
  PreTokenizer pre_tokenizer;
  if (tokenizer.has("pre_tokenizer")) {
    pre_tokenizer.add(tokenizer.object("pre_tokenizer"));
  }
  if (pre_tokenizer.leaves_bytes_) {
    pre_tokenizer.steps_.pop_back();
  }
  return pre_tokenizer;
}

void PreTokenizer::add(const JsonObject& value) {
  const std::string type = value.string("type");
  const auto step = [&](auto pointer) {
    steps_.push_back(std::move(pointer));
    leaves_bytes_ = false;
  };
  if (type == "ByteLevel") {
    if (value.boolean_or("add_prefix_space", true)) {
      step(std::make_shared<AddPrefix>(" ", false));
    }
    if (value.boolean_or("use_regex", true)) {
      step(std::make_shared<SplitGpt2Words>());
    }
    step(std::make_shared<ToByteCharacters>());
    leaves_bytes_ = true;
  } else if (type == "Split") {
    step(split_at_pattern(Pattern::from_json(value, "pattern"), value.boolean_or("invert", false),
                          split_behavior(value, value.string("behavior"))));
  } else if (type == "Digits") {
    const bool individual = value.boolean_or("individual_digits", false);
    step(split_at_class(is_numeric, individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous));
  } else if (type == "Punctuation") {
    step(split_at_class(is_punctuation, split_behavior(value, value.string_or("behavior", "Isolated"))));
  } else if (type == "Whitespace") {
    step(split_into_runs([](char32_t c) { return is_whitespace(c) ? 0 : is_word(c) ? 1 : 2; }));
  } else if (type == "WhitespaceSplit") {
    step(split_at_class(is_whitespace, SplitBehavior::kRemoved));
  } else if (type == "CharDelimiterSplit" || type == "Delimiter") {
    step(split_at_pattern(Pattern::literal(character_in(value, "delimiter")), false, SplitBehavior::kRemoved));
  } else if (type == "FixedLength") {
    step(std::make_shared<FixedLength>(static_cast<size_t>(value.integer_or("length", 5, 1, INT32_MAX))));
  } else if (type == "Metaspace") {
    const std::string mark = character_in(value, "replacement");
    // Files from before prepend_scheme have add_prefix_space alone.
    const std::string scheme =
        value.string_or("prepend_scheme", value.boolean_or("add_prefix_space", true) ? "always" : "never");
    if (scheme != "always" && scheme != "first" && scheme != "never") {
      value.fail(fmt::format("prepend_scheme must be always, first or never but is {}", quote(scheme)));
    }
    step(std::make_shared<ReplaceSpaces>(mark));
    if (scheme != "never") {
      step(std::make_shared<AddPrefix>(mark, scheme == "first"));
    }
    if (value.boolean_or("split", true)) {
      step(split_at_pattern(Pattern::literal(mark), false, SplitBehavior::kMergedWithNext));
    }
  } else if (type == "Sequence") {
    for (const JsonObject& item : objects_in(value, "pretokenizers")) {
      add(item);
    }
  } else {
    value.fail(fmt::format("pre-tokenizer {} is not supported", quote(type)));
  }
}

void PreTokenizer::apply(Words& words) const {
  for (const auto& step : steps_) {
    step->apply(words);
  }
}

}  // namespace mamba::text
