#include "mamba/models/module_names.h"

#include <oniguruma.h>

#include <algorithm>
#include <array>
#include <mutex>

#include "mamba/base/error.h"

namespace mamba::models {

namespace {

constexpr size_t kMaxSource = 4096;
// A path has a few dozen characters; an expression that needs more than this on one does not end in our time.
constexpr unsigned long kMaxSteps = 1'000'000;

const OnigUChar* bytes(const char* p) {
  return reinterpret_cast<const OnigUChar*>(p);
}

std::string error_text(int code, OnigErrorInfo* info = nullptr) {
  std::array<OnigUChar, ONIG_MAX_ERROR_MESSAGE_LEN> text{};
  const int size = onig_error_code_to_str(text.data(), code, info);
  return {reinterpret_cast<const char*>(text.data()), static_cast<size_t>(std::max(size, 0))};
}

}  // namespace

struct ModulePattern::Compiled {
  regex_t* regex = nullptr;

  Compiled() = default;
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;
  ~Compiled() { onig_free(regex); }

  // Throws UsageError about `source` where `text` does not compile.
  void compile(const std::string& text, const std::string& source) {
    OnigErrorInfo info{};
    const int code = onig_new(&regex, bytes(text.data()), bytes(text.data() + text.size()), ONIG_OPTION_DEFAULT,
                              ONIG_ENCODING_UTF8, ONIG_SYNTAX_PYTHON, &info);
    if (code != ONIG_NORMAL) {
      regex = nullptr;
      throw UsageError(fmt::format("{} is no regular expression: {}", quote(source), error_text(code, &info)));
    }
  }
};

ModulePattern::ModulePattern(const std::string& source) : source_(source) {
  static std::once_flag initialized;
  std::call_once(initialized, [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    onig_initialize(encodings, 1);
  });
  if (source.size() > kMaxSource) {
    throw UsageError(fmt::format("a pattern of module names may have {} bytes but has {}", kMaxSource, source.size()));
  }
  // By itself first: "a)(b" is none, though "(?:a)(b)" is.
  Compiled().compile(source, source);
  // A match that ends early must not hide one that goes on to the end, so the end belongs to the expression.
  const auto compiled = std::make_shared<Compiled>();
  compiled->compile("(?:" + source + ")\\Z", source);
  compiled_ = compiled;
}

bool ModulePattern::matches(std::string_view path) const {
  const std::unique_ptr<OnigMatchParam, void (*)(OnigMatchParam*)> limits(onig_new_match_param(),
                                                                          onig_free_match_param);
  check(limits != nullptr, "out of memory");
  onig_initialize_match_param(limits.get());
  onig_set_retry_limit_in_match_of_match_param(limits.get(), kMaxSteps);
  const OnigUChar* begin = bytes(path.data());
  const OnigUChar* end = bytes(path.data() + path.size());
  const int length =
      onig_match_with_param(compiled_->regex, begin, end, begin, nullptr, ONIG_OPTION_NONE, limits.get());
  if (length == ONIG_MISMATCH) {
    return false;
  }
  check(length >= 0, "the pattern {} cannot be matched against {}: {}", quote(source_), quote(std::string(path)),
        error_text(length));
  return static_cast<size_t>(length) == path.size();
}

bool names_module(std::string_view name, std::string_view path) {
  return path == name ||
         (path.size() > name.size() && path.ends_with(name) && path[path.size() - name.size() - 1] == '.');
}

std::vector<std::string> ModuleSelection::select(const std::vector<std::string>& paths) const {
  std::vector<std::string> out;
  const std::shared_ptr<const ModulePattern> regex =
      pattern.empty() ? nullptr : std::make_shared<const ModulePattern>(pattern);
  for (const std::string& path : paths) {
    const bool named =
        std::any_of(names.begin(), names.end(), [&](const std::string& name) { return names_module(name, path); });
    if (named || (regex && regex->matches(path))) {
      out.push_back(path);
    }
  }
  return out;
}

}  // namespace mamba::models
