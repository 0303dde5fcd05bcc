// Which modules of a model a PEFT configuration means: by names, or by a regular expression in Python's dialect.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace mamba::models {

// A regular expression as Python's re understands it.
class ModulePattern {
 public:
  // Throws UsageError with the expression and what is wrong with it.
  explicit ModulePattern(const std::string& source);

  // re.fullmatch(source, path). Throws Error where that takes too many steps, so that no expression hangs.
  bool matches(std::string_view path) const;

 private:
  struct Compiled;
  std::string source_;
  std::shared_ptr<const Compiled> compiled_;
};

// True when `path` is `name` or ends with "." + `name`.
bool names_module(std::string_view name, std::string_view path);

// Modules listed by name, or described by one regular expression that must match the whole path. Both empty: none.
struct ModuleSelection {
  std::vector<std::string> names = {};
  std::string pattern = {};

  bool empty() const { return names.empty() && pattern.empty(); }
  // Those of `paths` that are meant, in their order.
  std::vector<std::string> select(const std::vector<std::string>& paths) const;
};

}  // namespace mamba::models
