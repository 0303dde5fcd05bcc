#include "apps/mlx-mamba/help.h"

#include <mlx/version.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "mamba/base/error.h"

namespace mamba::cli {
namespace {

constexpr size_t kWidth = 80;
constexpr size_t kColumn = 27;  // where the explanations start

// `text` broken at blanks into lines of at most kWidth, each after the first behind `indent` blanks.
std::string wrapped(std::string_view text, size_t indent) {
  std::string out;
  size_t used = indent;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    const std::string_view word = text.substr(at, end - at);
    if (used > indent && used + 1 + word.size() > kWidth) {
      out += "\n" + std::string(indent, ' ');
      used = indent;
    } else if (used > indent) {
      out += ' ';
      ++used;
    }
    out += word;
    used += word.size();
    at = end + 1;
  }
  return out;
}

std::string entry(const std::string& left, const std::string& right) {
  std::string out = "  " + left;
  out += out.size() + 1 < kColumn ? std::string(kColumn - out.size(), ' ') : "\n" + std::string(kColumn, ' ');
  return out + wrapped(right, kColumn) + "\n";
}

std::string shown(const Option& option) {
  if (option.is_positional()) {
    return option.name;
  }
  std::string out = option.short_name.empty() ? option.name : option.short_name + ", " + option.name;
  if (!option.is_flag()) {
    out += " " + option.value_name;
  }
  return out;
}

}  // namespace

std::string program_help() {
  std::string out =
      "Usage: mlx-mamba COMMAND [OPTION]...\n\n"
      "Runs Mamba language models on MLX.\n\nCommands\n";
  for (const Command& command : commands()) {
    out += entry(command.name, command.summary);
  }
  out +=
      "\nWithout --model a command takes the small model that ships with the program. Elsewhere a model is\n"
      "a folder or a name on the Hugging Face hub, which is downloaded once and kept.\n\n"
      "mlx-mamba COMMAND --help tells more; mlx-mamba --version shows the versions.\n\n"
      "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n";
  return out;
}

std::string command_help(const Command& command, const OptionTable& options) {
  std::string out = fmt::format("Usage: {}", options.command());
  for (const Option& option : options.options()) {
    if (option.is_positional()) {
      out += " " + option.name;
    }
  }
  out += fmt::format(" [OPTION]...\n\n{}\n", wrapped(command.summary, 0));
  std::vector<std::string> groups;
  for (const Option& option : options.options()) {
    if (option.group != "Help" && std::find(groups.begin(), groups.end(), option.group) == groups.end()) {
      groups.push_back(option.group);
    }
  }
  groups.emplace_back("Help");
  for (const std::string& group : groups) {
    out += "\n" + group + "\n";
    for (const Option& option : options.options()) {
      if (option.group == group) {
        out += entry(shown(option), option.help);
      }
    }
  }
  if (*command.notes != '\0') {
    out += fmt::format("\n{}\n", wrapped(command.notes, 0));
  }
  return out + "\nExamples\n" + command.examples;
}

std::string version_text() {
  return fmt::format("mlx-mamba {} (MLX {})\n", MAMBA_VERSION, mlx::core::version());
}

}  // namespace mamba::cli
