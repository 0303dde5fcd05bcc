#include "mamba/text/decoder.h"

#include "mamba/text/byte_alphabet.h"
#include "mamba/text/json_list.h"
#include "mamba/text/normalizer.h"
#include "mamba/text/unicode.h"

namespace mamba::text {
namespace {

int hex_digit(char c) {
  return c >= '0' && c <= '9'   ? c - '0'
         : c >= 'a' && c <= 'f' ? c - 'a' + 10
         : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                : -1;
}

// The byte of "<0x41>", or -1.
int byte_of_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') {
    return -1;
  }
  const int high = hex_digit(token[3]);
  const int low = hex_digit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

// Patterns need well-formed text; bytes between such stretches stay as they are.
std::string replace_in_bytes(const Pattern& pattern, const std::string& content, std::string_view text, size_t limit) {
  std::string out;
  for (;;) {
    const size_t good = well_formed_prefix(text);
    out += replace_matches(pattern, content, text.substr(0, good), limit);
    text.remove_prefix(good);
    if (text.empty()) {
      return out;
    }
    const size_t bad = sequence_at(text, 0).size;
    out += text.substr(0, bad);
    text.remove_prefix(bad);
  }
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (size_t at; (at = text.find(from)) != std::string_view::npos;) {
    out += text.substr(0, at);
    out += to;
    text.remove_prefix(at + from.size());
  }
  out += text;
  return out;
}

}  // namespace

Decoder Decoder::from_json(const JsonObject& tokenizer) {
  Decoder decoder;
  if (tokenizer.has("decoder")) {
    decoder.has_decoder_ = true;
    decoder.add(tokenizer.object("decoder"));
  }
  decoder.plan_stream();
  return decoder;
}

void Decoder::add(const JsonObject& value) {
  const std::string type = value.string("type");
  if (type == "ByteLevel") {
    steps_.push_back({.kind = Kind::kByteLevel});
  } else if (type == "ByteFallback") {
    steps_.push_back({.kind = Kind::kByteFallback});
  } else if (type == "Fuse") {
    steps_.push_back({.kind = Kind::kFuse});
  } else if (type == "Replace") {
    steps_.push_back(
        {.kind = Kind::kReplace, .pattern = Pattern::from_json(value, "pattern"), .content = value.string("content")});
  } else if (type == "Strip") {
    steps_.push_back({.kind = Kind::kStrip,
                      .content = character_in(value, "content"),
                      .start = static_cast<size_t>(value.integer_or("start", 0, 0, INT32_MAX)),
                      .stop = static_cast<size_t>(value.integer_or("stop", 0, 0, INT32_MAX))});
  } else if (type == "Metaspace") {
    const bool prefixed =
        value.boolean_or("add_prefix_space", true) && value.string_or("prepend_scheme", "") != "never";
    steps_.push_back({.kind = Kind::kMetaspace, .content = character_in(value, "replacement"), .drop_first = prefixed});
  } else if (type == "BPEDecoder") {
    const std::string suffix = value.string_or("suffix", "</w>");
    if (suffix.empty()) {
      value.fail("the suffix of a BPEDecoder must not be empty");
    }
    steps_.push_back({.kind = Kind::kBpe, .content = suffix});
  } else if (type == "Sequence") {
    for (const JsonObject& item : objects_in(value, "decoders")) {
      add(item);
    }
  } else {
    value.fail(fmt::format("decoder {} is not supported", quote(type)));
  }
}

void Decoder::plan_stream() {
  if (!has_decoder_) {
    return;
  }
  size_t i = 0;
  bool bytes = false;  // a run of byte tokens is one text from here on
  for (; i < steps_.size() && !joins(i); ++i) {
    streams_ = streams_ && steps_[i].kind != Kind::kBpe && !bytes;
    bytes = steps_[i].kind == Kind::kByteFallback;
  }
  if (i < steps_.size()) {
    ++i;
  }
  per_token_ = i;
  while (i < steps_.size() && steps_[i].kind == Kind::kFuse) {
    ++i;
  }
  if (i < steps_.size() && steps_[i].kind == Kind::kStrip && steps_[i].stop == 0) {
    strip_start_ = steps_[i].start;
    strip_content_ = steps_[i].content;
    ++i;
  }
  streams_ = streams_ && i == steps_.size();
}

std::string Decoder::apply_to_token(const Step& step, std::string token, bool first, size_t limit) const {
  switch (step.kind) {
    case Kind::kByteLevel:
      if (auto bytes = bytes_of_characters(token)) {
        return std::move(*bytes);
      }
      return token;
    case Kind::kByteFallback:
      if (const int byte = byte_of_token(token); byte >= 0) {
        return std::string(1, static_cast<char>(static_cast<unsigned char>(byte)));
      }
      return token;
    case Kind::kReplace:
      return replace_in_bytes(step.pattern, step.content, token, limit);
    case Kind::kStrip: {
      std::string_view rest = token;
      for (size_t i = 0; i < step.start && rest.starts_with(step.content); ++i) {
        rest.remove_prefix(step.content.size());
      }
      for (size_t i = 0; i < step.stop && rest.ends_with(step.content); ++i) {
        rest.remove_suffix(step.content.size());
      }
      return std::string(rest);
    }
    case Kind::kMetaspace:
      return replace_all(token, step.content, first && step.drop_first ? "" : " ");
    case Kind::kFuse:
    case Kind::kBpe:
      return token;
  }
  return token;
}

std::string Decoder::decode(std::vector<std::string> tokens) const {
  size_t total = 0;
  for (const std::string& token : tokens) {
    total += token.size();
  }
  const size_t limit = growth_limit(total);
  for (size_t s = 0; s < steps_.size(); ++s) {
    const Step& step = steps_[s];
    std::vector<std::string> out;
    size_t size = 0;
    bool in_bytes = false;
    for (size_t i = 0; i < tokens.size(); ++i) {
      const bool is_byte = step.kind == Kind::kByteFallback && byte_of_token(tokens[i]) >= 0;
      std::string text = step.kind == Kind::kBpe
                             ? replace_all(tokens[i], step.content, i + 1 == tokens.size() ? "" : " ")
                             : apply_to_token(step, std::move(tokens[i]), i == 0, limit);
      size += text.size();
      check_growth(size, limit);
      if (!out.empty() && (joins(s) || (is_byte && in_bytes))) {
        out.back() += text;
      } else {
        out.push_back(std::move(text));
      }
      in_bytes = is_byte;
    }
    tokens = std::move(out);
  }
  std::string text;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!has_decoder_ && i > 0) {
      text += ' ';
    }
    text += tokens[i];
  }
  return text;
}

Decoder::Stream::Stream(const Decoder& decoder) : decoder_(&decoder), to_strip_(decoder.strip_start_) {}

std::string Decoder::Stream::push(std::string_view token) {
  if (!decoder_->streams_) {
    held_.emplace_back(token);
    return "";
  }
  const bool first = first_;
  first_ = false;
  std::string text(token);
  if (!decoder_->has_decoder_) {
    return first ? text : " " + text;
  }
  const size_t limit = growth_limit(text.size());
  for (size_t i = 0; i < decoder_->per_token_; ++i) {
    text = decoder_->apply_to_token(decoder_->steps_[i], std::move(text), first, limit);
    check_growth(text.size(), limit);
  }
  return to_strip_ == 0 ? text : strip_start(text);
}

std::string Decoder::Stream::strip_start(std::string_view text) {
  const std::string& content = decoder_->strip_content_;
  start_ += text;
  while (to_strip_ > 0) {
    if (start_.starts_with(content)) {
      start_.erase(0, content.size());
      --to_strip_;
    } else if (content.starts_with(start_)) {
      return "";  // the rest of the character may be still to come
    } else {
      to_strip_ = 0;
    }
  }
  return std::exchange(start_, "");
}

std::string Decoder::Stream::finish() {
  if (!decoder_->streams_) {
    return decoder_->decode(std::exchange(held_, {}));
  }
  to_strip_ = 0;
  return std::exchange(start_, "");
}

}  // namespace mamba::text
