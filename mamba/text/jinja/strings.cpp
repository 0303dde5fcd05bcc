#include "mamba/text/jinja/strings.h"

#include <utf8proc.h>

#include <algorithm>

#include "mamba/base/error.h"
#include "mamba/text/jinja/interpreter.h"
#include "mamba/text/unicode.h"

namespace mamba::text::jinja {
namespace {

bool is_space(char32_t c) {
  return is_whitespace(c) || (c >= 0x1c && c <= 0x1f);
}

bool is_cased(char32_t c) {
  const auto code = static_cast<utf8proc_int32_t>(c);
  return utf8proc_toupper(code) != code || utf8proc_tolower(code) != code;
}

void append_upper(std::string& out, char32_t c, bool title) {
  if (c == 0xDF) {  // the one of the special casings that is met
    out += title ? "Ss" : "SS";
    return;
  }
  const auto code = static_cast<utf8proc_int32_t>(c);
  append_utf8(out, static_cast<char32_t>(title ? utf8proc_totitle(code) : utf8proc_toupper(code)));
}

}  // namespace

std::string stripped(std::string_view text, const Value* chars, bool left, bool right) {
  check(chars == nullptr || chars->string() != nullptr, "the characters to strip must be a string");
  const auto goes = [&](size_t at, size_t size) {
    return chars == nullptr ? is_space(code_point_at(text, at).value)
                            : chars->string()->find(text.substr(at, size)) != std::string::npos;
  };
  size_t begin = 0;
  size_t end = text.size();
  while (left && begin < end) {
    const size_t size = code_point_at(text, begin).size;
    if (!goes(begin, size)) {
      break;
    }
    begin += size;
  }
  while (right && end > begin) {
    const size_t at = previous_character(text, end);
    if (!goes(at, end - at)) {
      break;
    }
    end = at;
  }
  return std::string(text.substr(begin, end - begin));
}

std::vector<std::string> split_text(std::string_view text, std::string_view separator, int64_t limit, bool from_right) {
  // The places to cut, then the parts between those that count.
  std::vector<std::pair<size_t, size_t>> cuts;
  const bool blanks = separator.empty();
  if (blanks) {
    text.remove_prefix(text.size() - stripped(text, nullptr, true, false).size());
    const std::string_view whole = text;
    text = text.substr(0, stripped(text, nullptr, false, true).size());
    if (text.empty()) {
      return {};
    }
    for (size_t at = 0; at < text.size();) {
      const CodePoint c = code_point_at(text, at);
      if (is_space(c.value)) {
        if (!cuts.empty() && cuts.back().second == at) {
          cuts.back().second += c.size;
        } else {
          cuts.emplace_back(at, at + c.size);
        }
      }
      at += c.size;
    }
    // What is not cut any more keeps its blanks.
    if (!from_right && limit >= 0 && static_cast<size_t>(limit) <= cuts.size()) {
      text = whole;
    }
  } else if (from_right) {
    for (size_t end = text.size(); end >= separator.size();) {
      const size_t at = text.substr(0, end).rfind(separator);
      if (at == std::string_view::npos) {
        break;
      }
      cuts.emplace_back(at, at + separator.size());
      end = at;
    }
    std::reverse(cuts.begin(), cuts.end());
  } else {
    for (size_t at = 0; (at = text.find(separator, at)) != std::string_view::npos; at += separator.size()) {
      cuts.emplace_back(at, at + separator.size());
    }
  }
  if (limit >= 0 && static_cast<size_t>(limit) < cuts.size()) {
    if (from_right) {
      cuts.erase(cuts.begin(), cuts.end() - static_cast<ptrdiff_t>(limit));
    } else {
      cuts.resize(static_cast<size_t>(limit));
    }
  }
  std::vector<std::string> out;
  size_t begin = 0;
  for (const auto& [at, end] : cuts) {
    out.emplace_back(text.substr(begin, at - begin));
    begin = end;
  }
  out.emplace_back(text.substr(begin));
  return out;
}

std::vector<std::string> split_lines(std::string_view text) {
  std::vector<std::string> out;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find_first_of("\n\r", begin), text.size());
    out.emplace_back(text.substr(begin, end - begin));
    begin = end + (text.substr(end).starts_with("\r\n") ? 2 : 1);
  }
  return out;
}

std::string replaced(std::string_view text, std::string_view old, std::string_view with, int64_t count) {
  check(!old.empty(), "replace needs a text to look for");
  std::string out;
  size_t begin = 0;
  for (size_t at = 0; count != 0 && (at = text.find(old, at)) != std::string_view::npos; --count) {
    out.append(text, begin, at - begin);
    out += with;
    check(out.size() <= kMaxLength, "a text becomes longer than {} bytes", kMaxLength);
    begin = at += old.size();
  }
  out.append(text, begin);
  return out;
}

std::string in_case(std::string_view text, Case wanted) {
  std::string out;
  bool first = true;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    const bool raise =
        wanted == Case::kUpper || (wanted == Case::kTitle && !in_word) || (wanted == Case::kCapitalized && first);
    if (raise) {
      append_upper(out, c.value, wanted != Case::kUpper);
    } else {
      append_lower(out, c.value);
    }
    first = false;
    in_word = is_cased(c.value);
    at += c.size;
  }
  return out;
}

}  // namespace mamba::text::jinja
