#include "mamba/text/pattern.h"

#include <oniguruma.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>
#include <vector>

#include "mamba/text/unicode.h"
#include "mamba/text/unicode_tables.h"

namespace mamba::text {
namespace {

// Backtracking steps that one search may take. The patterns of real tokenizers take a few per character; one that
// needs more than this would take seconds per match.
constexpr unsigned long kBaseSteps = 1'000'000;
constexpr unsigned long kStepsPerByte = 32;
// Entries of about 40 bytes, one per character of a run that a pattern may have to give back.
constexpr unsigned kMaxStack = 1u << 26;
constexpr size_t kMaxSource = 1u << 16;
constexpr unsigned kMaxParseDepth = 250;

const OnigUChar* bytes(const char* p) {
  return reinterpret_cast<const OnigUChar*>(p);
}

std::string error_text(int code, OnigErrorInfo* info = nullptr) {
  std::array<OnigUChar, ONIG_MAX_ERROR_MESSAGE_LEN> text{};
  const int size = onig_error_code_to_str(text.data(), code, info);
  return {reinterpret_cast<const char*>(text.data()), static_cast<size_t>(std::max(size, 0))};
}

// Oniguruma keeps properties by name for the whole process; the prefix keeps ours away from everyone else's.
constexpr std::string_view kPrefix = "mlxmamba";
constexpr std::array<std::string_view, 15> kCategories = {"l",  "lu", "ll", "lt", "lm", "lo", "m", "mn",
                                                          "mc", "n",  "nd", "nl", "no", "p",  "s"};

using Ranges = std::vector<std::pair<OnigCodePoint, OnigCodePoint>>;

bool belongs(std::string_view category, const tables::CategoryRow& row) {
  const auto lower = [](char c) { return static_cast<char>(c | 0x20); };
  return lower(row.category[0]) == category[0] && (category.size() == 1 || lower(row.category[1]) == category[1]);
}

// The installed library's ranges for a category, with the newer characters put where they belong.
Ranges updated_ranges(std::string_view category) {
  const OnigEncoding enc = ONIG_ENCODING_UTF8;
  const std::string name(category);
  const int ctype = enc->property_name_to_ctype(enc, const_cast<OnigUChar*>(bytes(name.data())),
                                                const_cast<OnigUChar*>(bytes(name.data() + name.size())));
  const OnigCodePoint* raw = nullptr;
  OnigCodePoint first_wide = 0;
  check(
      ctype >= 0 && enc->get_ctype_code_range(static_cast<OnigCtype>(ctype), &first_wide, &raw) == 0 && raw != nullptr,
      "Oniguruma has no character property {}", quote(category));
  Ranges installed;
  for (OnigCodePoint i = 0; i < raw[0]; ++i) {
    installed.emplace_back(raw[1 + 2 * i], raw[2 + 2 * i]);
  }
  Ranges out;
  size_t next = 0;
  for (const tables::CategoryRow& row : tables::kNewCategories) {
    while (next < installed.size() && installed[next].first <= row.last) {
      auto& [begin, end] = installed[next];
      if (begin < row.first) {
        out.emplace_back(begin, std::min<OnigCodePoint>(end, row.first - 1));
      }
      if (end > row.last) {
        begin = row.last + 1;
        break;
      }
      ++next;
    }
    if (belongs(category, row)) {
      out.emplace_back(row.first, row.last);
    }
  }
  out.insert(out.end(), installed.begin() + static_cast<ptrdiff_t>(next), installed.end());
  return out;
}

std::mutex& compile_mutex() {
  static std::mutex mutex;
  return mutex;
}

// Requires the compile mutex.
void initialize() {
  static const bool done = [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    onig_initialize(encodings, 1);
    onig_set_parse_depth_limit(kMaxParseDepth);
    static std::array<std::vector<OnigCodePoint>, kCategories.size()> kept;  // Oniguruma keeps pointers to these
    for (size_t i = 0; i < kCategories.size(); ++i) {
      const Ranges ranges = updated_ranges(kCategories[i]);
      kept[i].push_back(static_cast<OnigCodePoint>(ranges.size()));
      for (const auto& [first, last] : ranges) {
        kept[i].push_back(first);
        kept[i].push_back(last);
      }
      const int code =
          onig_unicode_define_user_property(fmt::format("{}{}", kPrefix, kCategories[i]).c_str(), kept[i].data());
      check(code == ONIG_NORMAL, "Oniguruma cannot define a character property: {}", error_text(code));
    }
    return true;
  }();
  static_cast<void>(done);
}

std::optional<std::string_view> known_category(std::string_view written) {
  std::string name;
  for (char c : written) {
    if (c != ' ' && c != '_' && c != '-') {
      name += static_cast<char>(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
    }
  }
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 14> kAliases = {{{"letter", "l"},
                                                                                              {"uppercaseletter", "lu"},
                                                                                              {"lowercaseletter", "ll"},
                                                                                              {"titlecaseletter", "lt"},
                                                                                              {"modifierletter", "lm"},
                                                                                              {"otherletter", "lo"},
                                                                                              {"mark", "m"},
                                                                                              {"combiningmark", "m"},
                                                                                              {"nonspacingmark", "mn"},
                                                                                              {"spacingmark", "mc"},
                                                                                              {"number", "n"},
                                                                                              {"decimalnumber", "nd"},
                                                                                              {"punctuation", "p"},
                                                                                              {"symbol", "s"}}};
  for (const auto& [alias, category] : kAliases) {
    if (name == alias) {
      return category;
    }
  }
  const auto found = std::find(kCategories.begin(), kCategories.end(), name);
  return found == kCategories.end() ? std::nullopt : std::optional(*found);
}

// \p{L}, \P{L} and \p{^L} become \p{mlxmambal} and so on.
std::string with_updated_categories(const std::string& source) {
  std::string out;
  for (size_t i = 0; i < source.size();) {
    if (source[i] != '\\' || i + 1 >= source.size()) {
      out += source[i++];
      continue;
    }
    const bool property =
        (source[i + 1] == 'p' || source[i + 1] == 'P') && i + 2 < source.size() && source[i + 2] == '{';
    const size_t close = property ? source.find('}', i) : std::string::npos;
    out += source[i];
    out += source[i + 1];
    i += 2;
    if (close == std::string::npos) {
      continue;
    }
    std::string_view name = std::string_view(source).substr(i + 1, close - i - 1);
    const bool negated = name.starts_with('^');
    name.remove_prefix(negated ? 1 : 0);
    if (const auto category = known_category(name)) {
      out += fmt::format("{{{}{}{}}}", negated ? "^" : "", kPrefix, *category);
      i = close + 1;
    }
  }
  return out;
}

struct RegionFree {
  void operator()(OnigRegion* region) const { onig_region_free(region, 1); }
};
struct ParamFree {
  void operator()(OnigMatchParam* param) const { onig_free_match_param(param); }
};

}  // namespace

struct Pattern::Compiled {
  ~Compiled() {
    const std::lock_guard lock(compile_mutex());
    onig_free(regex);
  }
  regex_t* regex = nullptr;
  std::string source;
};

Pattern Pattern::from_json(const JsonObject& owner, const std::string& key) {
  const JsonObject value = owner.object(key);
  if (value.has("Regex")) {
    return regex(value.string("Regex"), owner.file());
  }
  if (!value.has("String")) {
    owner.fail(fmt::format("field {} must hold a \"String\" or a \"Regex\"", quote(key)));
  }
  const std::string text = value.string("String");
  return text.empty() ? regex("", owner.file()) : literal(text);
}

Pattern Pattern::literal(std::string text) {
  Pattern pattern;
  pattern.literal_ = std::move(text);
  return pattern;
}

Pattern Pattern::regex(const std::string& source, const std::string& file) {
  const auto fail = [&](const std::string& why) {
    throw ParseError(file, ParseError::kNoOffset, fmt::format("pattern {} {}", quote(source), why));
  };
  if (source.size() > kMaxSource) {
    fail(fmt::format("is longer than {} bytes", kMaxSource));
  }
  auto compiled = std::make_shared<Compiled>();
  compiled->source = source;
  const std::lock_guard lock(compile_mutex());  // released before `compiled`, whose destructor takes it
  initialize();
  const std::string text = with_updated_categories(source);
  OnigErrorInfo info;
  const int code = onig_new(&compiled->regex, bytes(text.data()), bytes(text.data() + text.size()), ONIG_OPTION_NONE,
                            ONIG_ENCODING_UTF8, ONIG_SYNTAX_DEFAULT, &info);
  if (code != ONIG_NORMAL) {
    compiled->regex = nullptr;
    fail(fmt::format("is no valid regular expression: {}", quote(error_text(code, &info), 200)));
  }
  Pattern pattern;
  pattern.compiled_ = std::move(compiled);
  return pattern;
}

void Pattern::for_each(std::string_view text, const Visit& visit) const {
  if (text.empty()) {
    visit(0, 0, false);
    return;
  }
  size_t done = 0;
  const auto emit = [&](size_t begin, size_t end) {
    if (done != begin) {
      visit(done, begin, false);
    }
    visit(begin, end, true);
    done = end;
  };
  if (compiled_ == nullptr) {
    for (size_t at = 0; (at = text.find(literal_, at)) != std::string_view::npos; at += literal_.size()) {
      emit(at, at + literal_.size());
    }
  } else {
    const std::unique_ptr<OnigRegion, RegionFree> region(onig_region_new());
    const std::unique_ptr<OnigMatchParam, ParamFree> param(onig_new_match_param());
    check(region != nullptr && param != nullptr, "out of memory for a pattern's match");
    onig_initialize_match_param(param.get());
    const unsigned long steps = kBaseSteps + kStepsPerByte * text.size();
    onig_set_retry_limit_in_match_of_match_param(param.get(), steps);
    onig_set_retry_limit_in_search_of_match_param(param.get(), steps);
    onig_set_match_stack_limit_size_of_match_param(param.get(), kMaxStack);
    // Not check(): its arguments, the quoted pattern among them, would be made for every match.
    const auto refuse = [&](const std::string& why) {
      throw Error(fmt::format("pattern {} {}", quote(compiled_->source), why));
    };
    const OnigUChar* const start = bytes(text.data());
    const OnigUChar* const end = start + text.size();
    std::optional<size_t> last_end;
    for (size_t at = 0; at <= text.size();) {
      const int found = onig_search_with_param(compiled_->regex, start, end, start + at, end, region.get(),
                                               ONIG_OPTION_NONE, param.get());
      if (found == ONIG_MISMATCH) {
        break;
      }
      if (found < 0) {
        refuse(fmt::format("cannot be applied to {} bytes of text: {}", text.size(), error_text(found)));
      }
      const auto match_begin = static_cast<size_t>(region->beg[0]);
      const auto match_end = static_cast<size_t>(region->end[0]);
      if (match_begin < at || match_end < match_begin) {
        refuse(fmt::format("matches from {} to {}: \\K cannot be used like this", match_begin, match_end));
      }
      if (match_begin == match_end && last_end == match_end) {
        // Found nothing behind the previous match: look one character on.
        at = match_end < text.size() ? match_end + code_point_at(text, match_end).size : match_end + 1;
        continue;
      }
      emit(match_begin, match_end);
      at = match_end;
      last_end = match_end;
    }
  }
  if (done != text.size()) {
    visit(done, text.size(), false);
  }
}

}  // namespace mamba::text
