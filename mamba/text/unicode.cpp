#include "mamba/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/text/unicode_tables.h"

namespace mamba::text {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

template <typename Table>
auto find_row(const Table& table, char32_t c) {
  auto row = std::upper_bound(table.begin(), table.end(), c, [](char32_t x, const auto& r) { return x < r.first; });
  return row != table.begin() && c <= std::prev(row)->last ? std::prev(row) : table.end();
}

template <typename Table>
bool in_table(const Table& table, char32_t c) {
  return find_row(table, c) != table.end();
}

uint8_t byte_at(std::string_view text, size_t at) {
  return static_cast<uint8_t>(text[at]);
}

}  // namespace

CodePoint code_point_at(std::string_view text, size_t at) {
  const uint8_t lead = byte_at(text, at);
  const auto tail = [&](size_t i) { return static_cast<char32_t>(byte_at(text, at + i) & 0x3f); };
  if (lead < 0x80) {
    return {lead, 1};
  }
  if (lead < 0xe0) {
    return {static_cast<char32_t>(lead & 0x1f) << 6 | tail(1), 2};
  }
  if (lead < 0xf0) {
    return {static_cast<char32_t>(lead & 0x0f) << 12 | tail(1) << 6 | tail(2), 3};
  }
  return {static_cast<char32_t>(lead & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4};
}

size_t previous_character(std::string_view text, size_t at) {
  do {
    --at;
  } while (at > 0 && (byte_at(text, at) & 0xc0) == 0x80);
  return at;
}

void append_utf8(std::string& out, char32_t value) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(static_cast<uint8_t>(byte)); };
  if (value < 0x80) {
    put(value);
  } else if (value < 0x800) {
    put(0xc0 | value >> 6);
    put(0x80 | (value & 0x3f));
  } else if (value < 0x10000) {
    put(0xe0 | value >> 12);
    put(0x80 | (value >> 6 & 0x3f));
    put(0x80 | (value & 0x3f));
  } else {
    put(0xf0 | value >> 18);
    put(0x80 | (value >> 12 & 0x3f));
    put(0x80 | (value >> 6 & 0x3f));
    put(0x80 | (value & 0x3f));
  }
}

Sequence sequence_at(std::string_view text, size_t at) {
  const uint8_t lead = byte_at(text, at);
  if (lead < 0x80) {
    return {Form::kCharacter, 1};
  }
  // The second byte's range excludes overlong forms, surrogates and values above U+10FFFF.
  size_t size = 0;
  uint8_t low = 0x80;
  uint8_t high = 0xbf;
  if (lead >= 0xc2 && lead <= 0xdf) {
    size = 2;
  } else if (lead >= 0xe0 && lead <= 0xef) {
    size = 3;
    low = lead == 0xe0 ? 0xa0 : low;
    high = lead == 0xed ? 0x9f : high;
  } else if (lead >= 0xf0 && lead <= 0xf4) {
    size = 4;
    low = lead == 0xf0 ? 0x90 : low;
    high = lead == 0xf4 ? 0x8f : high;
  } else {
    return {Form::kIllFormed, 1};
  }
  for (size_t i = 1; i < size; ++i) {
    if (at + i >= text.size()) {
      return {Form::kCutShort, i};
    }
    const uint8_t byte = byte_at(text, at + i);
    if (byte < low || byte > high) {
      return {Form::kIllFormed, i};
    }
    low = 0x80;
    high = 0xbf;
  }
  return {Form::kCharacter, size};
}

size_t well_formed_prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    if (byte_at(text, at) < 0x80) {
      ++at;
      continue;
    }
    const Sequence sequence = sequence_at(text, at);
    if (sequence.form != Form::kCharacter) {
      break;
    }
    at += sequence.size;
  }
  return at;
}

std::string replace_ill_formed(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t good = well_formed_prefix(text);
    out += text.substr(0, good);
    text.remove_prefix(good);
    if (!text.empty()) {
      out += kReplacement;
      text.remove_prefix(sequence_at(text, 0).size);
    }
  }
  return out;
}

bool is_whitespace(char32_t c) {
  return c < 0x80 ? c == ' ' || (c >= '\t' && c <= '\r') : in_table(tables::kWhitespace, c);
}

bool is_word(char32_t c) {
  if (c < 0x80) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  }
  return in_table(tables::kWord, c);
}

bool is_numeric(char32_t c) {
  return c < 0x80 ? c >= '0' && c <= '9' : in_table(tables::kNumeric, c);
}

bool is_punctuation(char32_t c) {
  return in_table(tables::kPunctuation, c);
}

void append_lower(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
    return;
  }
  if (c == 0x130) {
    out += "i\xcc\x87";
    return;
  }
  const auto row = find_row(tables::kLower, c);
  if (row != tables::kLower.end() && (c - row->first) % row->stride == 0) {
    c = static_cast<char32_t>(static_cast<int32_t>(c) + row->delta);
  }
  append_utf8(out, c);
}

namespace {

// Decomposes, orders and composes stretches between inert characters. utf8proc's own ordering takes quadratic time
// on a long run of marks, so only its tables and its composition are used.
class NormalizeRun {
 public:
  NormalizeRun(NormalForm form, std::string& out) : out_(out) {
    options_ = UTF8PROC_STABLE;
    compose_ = form == NormalForm::kNfc || form == NormalForm::kNfkc;
    options_ |= compose_ ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) {
      options_ |= UTF8PROC_COMPAT;
    }
  }

  void add(char32_t c) {
    if (in_table(tables::kInert, c)) {
      flush();
      append_utf8(out_, c);
      return;
    }
    std::array<utf8proc_int32_t, 32> parts;  // the longest, U+FDFA, has 18
    int boundclass = 0;
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts.data(), parts.size(),
                                               static_cast<utf8proc_option_t>(options_), &boundclass);
    check(count >= 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()),
          "Unicode normalization failed at U+{:04X}: {}", static_cast<uint32_t>(c), utf8proc_errmsg(count));
    for (utf8proc_ssize_t i = 0; i < count; ++i) {
      const int rank = utf8proc_get_property(parts[i])->combining_class;
      if (rank == 0) {
        order_marks();
        // A character that starts a stretch which composition cannot reach back from ends the previous one; cutting
        // at every ASCII character keeps the buffer small.
        if (parts[i] < 0x80) {
          flush();
        }
        buffer_.push_back(parts[i]);
        marks_ = buffer_.size();
      } else {
        buffer_.push_back(parts[i]);
      }
    }
  }

  void flush() {
    order_marks();
    if (buffer_.empty()) {
      return;
    }
    auto size = static_cast<utf8proc_ssize_t>(buffer_.size());
    if (compose_) {
      size = utf8proc_normalize_utf32(buffer_.data(), size, static_cast<utf8proc_option_t>(options_));
      check(size >= 0, "Unicode normalization failed: {}", utf8proc_errmsg(size));
    }
    for (utf8proc_ssize_t i = 0; i < size; ++i) {
      append_utf8(out_, static_cast<char32_t>(buffer_[i]));
    }
    buffer_.clear();
    marks_ = 0;
  }

 private:
  void order_marks() {
    if (buffer_.size() > marks_ + 1) {
      std::stable_sort(buffer_.begin() + static_cast<ptrdiff_t>(marks_), buffer_.end(), [](auto a, auto b) {
        return utf8proc_get_property(a)->combining_class < utf8proc_get_property(b)->combining_class;
      });
    }
    marks_ = buffer_.size();
  }

  std::string& out_;
  int options_;
  bool compose_;
  std::vector<utf8proc_int32_t> buffer_;
  size_t marks_ = 0;  // where the run of marks at the buffer's end starts
};

}  // namespace

std::string normalize(std::string_view text, NormalForm form) {
  std::string out;
  out.reserve(text.size());
  NormalizeRun run(form, out);
  for (size_t at = 0; at < text.size();) {
    // ASCII followed by ASCII stays as it is in every form.
    const bool plain = byte_at(text, at) < 0x80 && (at + 1 == text.size() || byte_at(text, at + 1) < 0x80);
    if (plain) {
      run.flush();
      out += text[at++];
      continue;
    }
    const CodePoint c = code_point_at(text, at);
    run.add(c.value);
    at += c.size;
  }
  run.flush();
  return out;
}

}  // namespace mamba::text
