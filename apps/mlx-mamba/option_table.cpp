// CLI11 takes the command line apart; names, values and messages are ours. It converts and validates nothing here,
// since its texts span lines and its conversions accept too much ("-1" as an unsigned number).

#include "apps/mlx-mamba/option_table.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "mamba/base/error.h"

namespace mamba::cli {
namespace {

// Levenshtein's distance, where two neighbours swapped count as one step.
size_t distance(const std::string& a, const std::string& b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        d[i][j] = i + j;
        continue;
      }
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace

std::string nearest(const std::string& word, const std::vector<std::string>& words) {
  std::string best;
  if (word.size() > 64) {
    return best;
  }
  size_t best_distance = std::max<size_t>(1, word.size() / 3) + 1;
  for (const std::string& candidate : words) {
    const size_t d = distance(word, candidate);
    if (d < best_distance) {
      best_distance = d;
      best = candidate;
    }
  }
  return best;
}

OptionTable::OptionTable(std::string command) : command_(std::move(command)), app_(std::make_unique<CLI::App>()) {
  app_->set_help_flag();
  app_->allow_extras();
  group("Help");
  add({.name = "-h,--help", .value_name = "", .help = "show this text", .group = group_});
  options_.back().assign = [this](const std::string&) { help_ = true; };
  flag("--version", &version_, "show the versions of program and MLX");
  group("Options");
}

OptionTable::~OptionTable() = default;

void OptionTable::add(Option option) {
  if (option.is_positional()) {
    std::string name = option.name;
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    option.parsed = app_->add_option(name);
  } else if (option.is_flag()) {
    option.parsed = app_->add_flag(option.name);
  } else {
    option.parsed = app_->add_option(option.name);
  }
  if (option.takes_many) {
    option.parsed->expected(1, CLI::detail::expected_max_vector_size);
  }
  option.parsed->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  if (const size_t comma = option.name.find(','); comma != std::string::npos) {
    option.short_name = option.name.substr(0, comma);
    option.name.erase(0, comma + 1);
  }
  options_.push_back(std::move(option));
}

void OptionTable::flag(const std::string& name, bool* value, const std::string& help) {
  switched(
      name, [value] { *value = true; }, help);
}

void OptionTable::switched(const std::string& name, std::function<void()> assign, const std::string& help) {
  add({.name = name, .value_name = "", .help = help, .group = group_, .assign = [assign](const std::string&) {
         assign();
       }});
}

void OptionTable::text(const std::string& name, const std::string& value_name, std::optional<std::string>* value,
                       const std::string& help, Offer offer) {
  add({.name = name,
       .value_name = value_name,
       .help = help,
       .group = group_,
       .offer = offer,
       .assign = [value](const std::string& given) { *value = given; }});
}

void OptionTable::texts(const std::string& name, const std::string& value_name, std::vector<std::string>* values,
                        const std::string& help) {
  add({.name = name,
       .value_name = value_name,
       .help = help,
       .group = group_,
       .repeats = true,
       .assign = [values](const std::string& given) { values->push_back(given); }});
}

void OptionTable::choice(const std::string& name, const std::string& value_name, std::vector<std::string> words,
                         std::optional<std::string>* value, const std::string& help) {
  choice(
      name, value_name, std::move(words), [value](const std::string& given) { *value = given; }, help);
}

void OptionTable::choice(const std::string& name, const std::string& value_name, std::vector<std::string> words,
                         std::function<void(const std::string&)> assign, const std::string& help) {
  add({.name = name,
       .value_name = value_name,
       .help = help,
       .group = group_,
       .offer = Offer::kWords,
       .words = words,
       .assign = [this, name, words, assign](const std::string& given) {
         if (std::find(words.begin(), words.end(), given) == words.end()) {
           fail(fmt::format("{} must be {} or {} but is {}", name, fmt::join(words.begin(), words.end() - 1, ", "),
                            words.back(), quote(given)));
         }
         assign(given);
       }});
}

void OptionTable::integer(const std::string& name, const std::string& value_name, std::function<void(int64_t)> assign,
                          int64_t low, int64_t high, const std::string& help) {
  add({.name = name,
       .value_name = value_name,
       .help = help,
       .group = group_,
       .assign = [this, name = name.substr(name.find(',') + 1), assign, low, high](const std::string& given) {
         int64_t value = 0;
         const char* const end = given.data() + given.size();
         const auto [stop, error] = std::from_chars(given.data(), end, value);
         if (error != std::errc() || stop != end || value < low || value > high) {
           fail(fmt::format("{} must be an integer from {} to {} but is {}", name, low, high, quote(given)));
         }
         assign(value);
       }});
}

void OptionTable::number(const std::string& name, const std::string& value_name, float* value,
                         const std::string& help) {
  add({.name = name,
       .value_name = value_name,
       .help = help,
       .group = group_,
       .assign = [this, name, value](const std::string& given) {
         char* stop = nullptr;
         const float parsed = std::strtof(given.c_str(), &stop);
         const bool blank = given.empty() || std::isspace(static_cast<unsigned char>(given.front()));
         if (blank || stop != given.c_str() + given.size() || !std::isfinite(parsed)) {
           fail(fmt::format("{} must be a number but is {}", name, quote(given)));
         }
         *value = parsed;
       }});
}

void OptionTable::real(const std::string& name, const std::string& value_name, std::function<void(double)> assign,
                       double low, double high, const std::string& help) {
  add({.name = name,
       .value_name = value_name,
       .help = help,
       .group = group_,
       .assign = [this, name, assign, low, high](const std::string& given) {
         char* stop = nullptr;
         const double parsed = std::strtod(given.c_str(), &stop);
         const bool blank = given.empty() || std::isspace(static_cast<unsigned char>(given.front()));
         if (blank || stop != given.c_str() + given.size() || !(parsed >= low && parsed <= high)) {
           fail(fmt::format("{} must be a number from {} to {} but is {}", name, low, high, quote(given)));
         }
         assign(parsed);
       }});
}

void OptionTable::paths(const std::string& name, const std::string& value_name, std::vector<std::string>* values,
                        const std::string& help) {
  add({.name = name,
       .value_name = value_name,
       .help = help,
       .group = group_,
       .offer = Offer::kFiles,
       .repeats = true,
       .takes_many = true,
       .assign = [values](const std::string& given) { values->push_back(given); }});
}

// CLI11 takes "--prompt=" for an option whose value comes next; here it is one whose value is empty.
std::vector<std::string> OptionTable::separated(const std::vector<std::string>& arguments) const {
  std::vector<std::string> out;
  bool is_value = false;
  for (const std::string& argument : arguments) {
    const auto named = [&](const std::string& name) {
      return std::any_of(options_.begin(), options_.end(), [&](const Option& o) {
        return !o.is_flag() && !o.is_positional() && (o.name == name || (!name.empty() && o.short_name == name));
      });
    };
    if (!is_value && argument.size() > 1 && argument.back() == '=' && named(argument.substr(0, argument.size() - 1))) {
      out.push_back(argument.substr(0, argument.size() - 1));
      out.emplace_back();
      continue;
    }
    is_value = !is_value && named(argument);
    out.push_back(argument);
  }
  return out;
}

OptionTable::Asked OptionTable::parse(const std::vector<std::string>& arguments) {
  std::vector<std::string> reversed = separated(arguments);
  const std::string last = reversed.empty() ? "" : reversed.back();
  std::reverse(reversed.begin(), reversed.end());
  try {
    app_->parse(std::move(reversed));
  } catch (const CLI::ArgumentMismatch&) {  // only the last argument can lack its value
    fail(fmt::format("{} needs a value", last));
  } catch (const CLI::Error& e) {
    fail(e.what());
  }
  for (const Option& option : options_) {
    if (option.group == "Help") {
      take(option);
    }
  }
  if (help_) {
    return Asked::kHelp;
  }
  if (version_) {
    return Asked::kVersion;
  }
  if (const std::vector<std::string> extras = app_->remaining(); !extras.empty()) {
    fail_unexpected(extras.front());
  }
  for (const Option& option : options_) {
    take(option);
  }
  return Asked::kRun;
}

void OptionTable::take(const Option& option) {
  const std::vector<std::string>& results = option.parsed->results();
  if (option.is_flag()) {
    for (const std::string& result : results) {
      if (result != "true") {
        fail(fmt::format("{} takes no value", option.name));
      }
    }
  } else if (results.size() > 1 && !option.repeats) {
    fail(fmt::format("{} was given {} times: give it once", option.name, results.size()));
  }
  for (const std::string& result : results) {
    option.assign(result);
  }
}

void OptionTable::fail(const std::string& message) const {
  throw UsageError(fmt::format("{} (see {} --help)", message, command_));
}

void OptionTable::fail_unexpected(const std::string& argument) const {
  if (argument.size() < 2 || argument.front() != '-') {
    fail(fmt::format("unexpected argument {}", quote(argument)));
  }
  const std::string name = argument.substr(0, argument.find('='));
  std::vector<std::string> names;
  for (const Option& option : options_) {
    names.push_back(option.name);
  }
  const std::string meant = nearest(name, names);
  fail(fmt::format("there is no option {}{}", quote(name), meant.empty() ? "" : "; did you mean " + meant + "?"));
}

}  // namespace mamba::cli
