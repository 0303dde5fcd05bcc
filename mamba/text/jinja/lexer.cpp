#include "mamba/text/jinja/lexer.h"

#include <algorithm>

#include "mamba/base/error.h"
#include "mamba/text/unicode.h"

namespace mamba::text::jinja {
namespace {

bool is_blank(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

std::string with_plain_lines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      i += i + 1 < source.size() && source[i + 1] == '\n' ? 1 : 0;
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) {
    out.pop_back();
  }
  return out;
}

class Lexer {
 public:
  Lexer(std::string source, const std::string& name) : source_(std::move(source)), name_(name) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      text();
      if (at_ == source_.size()) {
        break;
      }
      const char kind = source_[at_ + 1];
      if (kind == '#') {
        comment();
      } else if (kind == '%' && raw()) {
        continue;
      } else {
        tag(kind == '%');
      }
    }
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  void advance(size_t end) {
    line_ += static_cast<int>(
        std::count(source_.begin() + static_cast<ptrdiff_t>(at_), source_.begin() + static_cast<ptrdiff_t>(end), '\n'));
    at_ = end;
  }

  // Text up to the next tag, less what the tag takes away.
  void text() {
    size_t end = at_;
    while (end < source_.size() && !(source_[end] == '{' && end + 1 < source_.size() &&
                                     (source_[end + 1] == '{' || source_[end + 1] == '%' || source_[end + 1] == '#'))) {
      ++end;
    }
    const size_t stop = stripped_end(at_, end);
    if (stop > at_) {
      add(TokenKind::kText, source_.substr(at_, stop - at_));
    }
    advance(end);
  }

  // Where text [begin, end) ends in view of the tag at `end`.
  size_t stripped_end(size_t begin, size_t end) const {
    const char sign = end + 2 < source_.size() ? source_[end + 2] : '\0';
    if (end == source_.size() || sign == '+') {
      return end;
    }
    size_t stop = end;
    if (sign == '-') {
      while (stop > begin && is_blank(source_[stop - 1])) {
        --stop;
      }
      return stop;
    }
    if (source_[end + 1] == '{') {
      return end;
    }
    while (stop > begin && source_[stop - 1] != '\n' && is_blank(source_[stop - 1])) {
      --stop;
    }
    // Only where the line begins here: at its newline, at the start, or behind a tag that took its newline.
    return stop == 0 || source_[stop - 1] == '\n' ? stop : end;
  }

  // Behind a block's or a comment's end.
  void trim(char sign, bool takes_newline) {
    if (sign == '-') {
      size_t end = at_;
      while (end < source_.size() && is_blank(source_[end])) {
        ++end;
      }
      advance(end);
    } else if (sign != '+' && takes_newline && at_ < source_.size() && source_[at_] == '\n') {
      advance(at_ + 1);
    }
  }

  void comment() {
    const size_t end = source_.find("#}", at_ + 2);
    if (end == std::string::npos) {
      fail_at(name_, line_, "a comment has no end: \"#}\" is missing");
    }
    const char sign = end > at_ + 2 ? source_[end - 1] : '\0';
    advance(end + 2);
    trim(sign, true);
  }

  // Behind "{%" and a sign at `at`: whether the block says `word` alone; then where it ends and its last sign.
  bool is_block(size_t at, std::string_view word, size_t& end, char& sign) const {
    if (at < source_.size() && (source_[at] == '-' || source_[at] == '+')) {
      ++at;
    }
    while (at < source_.size() && is_blank(source_[at])) {
      ++at;
    }
    if (source_.compare(at, word.size(), word) != 0) {
      return false;
    }
    at += word.size();
    while (at < source_.size() && is_blank(source_[at])) {
      ++at;
    }
    sign = at < source_.size() && (source_[at] == '-' || source_[at] == '+') ? source_[at] : '\0';
    at += sign != '\0' ? 1 : 0;
    end = at + 2;
    return source_.compare(at, 2, "%}") == 0;
  }

  // {% raw %} ... {% endraw %}
  bool raw() {
    size_t end = 0;
    char sign = '\0';
    if (!is_block(at_ + 2, "raw", end, sign)) {
      return false;
    }
    const int begun = line_;
    advance(end);
    trim(sign, true);
    for (size_t close = source_.find("{%", at_); close != std::string::npos; close = source_.find("{%", close + 2)) {
      if (is_block(close + 2, "endraw", end, sign)) {
        const size_t stop = stripped_end(at_, close);
        if (stop > at_) {
          add(TokenKind::kText, source_.substr(at_, stop - at_));
        }
        advance(end);
        trim(sign, true);
        return true;
      }
    }
    fail_at(name_, begun, "raw has no endraw");
  }

  void tag(bool block) {
    const std::string_view close = block ? "%}" : "}}";
    const int begun = line_;
    add(block ? TokenKind::kBlockBegin : TokenKind::kOutputBegin, "");
    advance(at_ + 2);
    if (at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')) {
      ++at_;
    }
    std::string open;  // brackets, since {{ {"a": {}} }} does not end at its first }}
    for (;;) {
      size_t next = at_;
      while (next < source_.size() && is_blank(source_[next])) {
        ++next;
      }
      advance(next);
      if (at_ == source_.size()) {
        fail_at(name_, begun, fmt::format("a tag has no end: \"{}\" is missing", close));
      }
      const char c = source_[at_];
      const bool signed_end = (c == '-' || (block && c == '+')) && source_.compare(at_ + 1, 2, close) == 0;
      if (open.empty() && (signed_end || source_.compare(at_, 2, close) == 0)) {
        add(block ? TokenKind::kBlockEnd : TokenKind::kOutputEnd, "");
        at_ += signed_end ? 3 : 2;
        trim(signed_end ? c : '\0', block);
        return;
      }
      expression_token(open);
    }
  }

  void expression_token(std::string& open) {
    const char c = source_[at_];
    size_t end = at_;
    if (is_name_start(c)) {
      while (end < source_.size() && (is_name_start(source_[end]) || is_digit(source_[end]))) {
        ++end;
      }
      add(TokenKind::kName, source_.substr(at_, end - at_));
    } else if (is_digit(c)) {
      number(end);
    } else if (c == '"' || c == '\'') {
      return string(c);
    } else {
      static constexpr std::string_view kTwo[] = {"==", "!=", "<=", ">=", "//", "**"};
      static constexpr std::string_view kOne = "+-*/%~<>=.,:|()[]{}";
      const std::string_view rest = std::string_view(source_).substr(at_);
      const bool two = std::any_of(std::begin(kTwo), std::end(kTwo), [&](auto op) { return rest.starts_with(op); });
      if (!two && kOne.find(c) == std::string_view::npos) {
        fail_at(name_, line_, fmt::format("{} does not belong into an expression", quote(rest.substr(0, 1))));
      }
      if (c == '(' || c == '[' || c == '{') {
        open += c == '(' ? ')' : c == '[' ? ']' : '}';
      } else if (c == ')' || c == ']' || c == '}') {
        if (open.empty() || open.back() != c) {
          fail_at(name_, line_, fmt::format("\"{}\" closes nothing", c));
        }
        open.pop_back();
      }
      end = at_ + (two ? 2 : 1);
      add(TokenKind::kOperator, source_.substr(at_, end - at_));
    }
    at_ = end;
  }

  void number(size_t& end) {
    const auto digits = [&] {
      while (end < source_.size() && (is_digit(source_[end]) || source_[end] == '_')) {
        ++end;
      }
    };
    digits();
    bool is_float = false;
    if (end + 1 < source_.size() && source_[end] == '.' && is_digit(source_[end + 1])) {
      is_float = true;
      ++end;
      digits();
    }
    if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      size_t exponent = end + 1;
      exponent += exponent < source_.size() && (source_[exponent] == '-' || source_[exponent] == '+') ? 1 : 0;
      if (exponent < source_.size() && is_digit(source_[exponent])) {
        is_float = true;
        end = exponent;
        digits();
      }
    }
    std::string text = source_.substr(at_, end - at_);
    std::erase(text, '_');
    add(is_float ? TokenKind::kFloat : TokenKind::kInteger, std::move(text));
  }

  void string(char mark) {
    const int begun = line_;
    std::string value;
    size_t at = at_ + 1;
    for (;; ++at) {
      if (at >= source_.size()) {
        fail_at(name_, begun, "a string has no end");
      }
      if (source_[at] == mark) {
        break;
      }
      if (source_[at] != '\\' || at + 1 >= source_.size()) {
        value += source_[at];
        continue;
      }
      escape(++at, value);
    }
    add(TokenKind::kString, std::move(value));
    advance(at + 1);
  }

  // source_[at] follows a backslash; leaves `at` on the escape's last character.
  void escape(size_t& at, std::string& value) {
    static constexpr std::string_view kLetters = "ntr\\'\"abfv0";
    static constexpr std::string_view kMeanings{"\n\t\r\\'\"\a\b\f\v\0", 11};
    const char c = source_[at];
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (const size_t found = kLetters.find(c); found != std::string_view::npos) {
      value += kMeanings[found];
    } else if (c == '\n') {
      return;  // a line that goes on
    } else if (digits > 0) {
      char32_t code = 0;
      for (size_t i = 0; i < digits; ++i) {
        const char digit = ++at < source_.size() ? source_[at] : '\0';
        const char lower = static_cast<char>(digit | 0x20);
        if (!is_digit(digit) && !(lower >= 'a' && lower <= 'f')) {
          fail_at(name_, line_, fmt::format("\\{} needs {} hexadecimal digits", c, digits));
        }
        code = code * 16 + static_cast<char32_t>(is_digit(digit) ? digit - '0' : lower - 'a' + 10);
      }
      if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) {
        fail_at(name_, line_, "an escape in a string stands for no character");
      }
      append_utf8(value, code);
    } else {
      value += '\\';
      value += c;
    }
  }

  std::string source_;
  const std::string& name_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

void fail_at(const std::string& name, int line, const std::string& message) {
  throw ParseError(fmt::format("{}:{}", name, line), ParseError::kNoOffset, message);
}

std::vector<Token> tokenize(std::string_view source, const std::string& name) {
  if (well_formed_prefix(source) != source.size()) {
    throw ParseError(name, static_cast<int64_t>(well_formed_prefix(source)), "the template is not UTF-8");
  }
  return Lexer(with_plain_lines(source), name).run();
}

}  // namespace mamba::text::jinja
