#include "apps/mlx-mamba/completion_script.h"

#include <functional>

#include "apps/mlx-mamba/command.h"
#include "mamba/base/error.h"

namespace mamba::cli {
namespace {

void for_each_command(const std::function<void(const Command&, const OptionTable&)>& visit) {
  for (const Command& command : commands()) {
    OptionTable options(fmt::format("mlx-mamba {}", command.name));
    command.declare(options);
    visit(command, options);
  }
}

std::string command_names() {
  std::string names;
  for (const Command& command : commands()) {
    names += (names.empty() ? "" : " ") + std::string(command.name);
  }
  return names;
}

// `text` with `c` in front of each of `special`.
std::string escaped(const std::string& text, std::string_view special) {
  std::string out;
  for (const char c : text) {
    if (special.find(c) != std::string_view::npos) {
      out += '\\';
    }
    out += c;
  }
  return out;
}

// For use between single quotes in bash and zsh.
std::string quoted_part(const std::string& text) {
  std::string out;
  for (const char c : text) {
    out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return out;
}

std::string bash_values(const Option& option) {
  switch (option.offer) {
    case Offer::kFiles:
      return "compopt -o filenames; COMPREPLY=($(compgen -f -- \"$current\"))";
    case Offer::kFolders:
      return "compopt -o filenames; COMPREPLY=($(compgen -d -- \"$current\"))";
    case Offer::kWords:
      return fmt::format("IFS=$' \\t\\n'; COMPREPLY=($(compgen -W \"{}\" -- \"$current\"))",
                         fmt::join(option.words, " "));
    case Offer::kNothing:
      break;
  }
  return ":";
}

std::string bash_script() {
  std::string cases;
  for_each_command([&](const Command& command, const OptionTable& options) {
    std::string names;
    std::string words;
    std::string values;
    for (const Option& option : options.options()) {
      if (option.is_positional()) {
        words += fmt::format(" {}", fmt::join(option.words, " "));
        continue;
      }
      names += " " + option.name;
      if (!option.is_flag()) {
        values += fmt::format("        {}{}) {}; return ;;\n", option.name,
                              option.short_name.empty() ? "" : "|" + option.short_name, bash_values(option));
      }
    }
    cases += fmt::format("    {})\n", command.name);
    if (!values.empty()) {
      cases += "      case $previous in\n" + values + "      esac\n";
    }
    cases += fmt::format("      words=\"{}{}\" ;;\n", names.substr(1), words);
  });
  return fmt::format(R"(# bash completion for mlx-mamba
_mlx_mamba() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} words IFS=$' \t\n'
  COMPREPLY=()
  if [[ $COMP_CWORD -eq 1 ]]; then
    COMPREPLY=($(compgen -W "{0} --help --version" -- "$current"))
    return
  fi
  IFS=$'\n'
  case ${{COMP_WORDS[1]}} in
{1}    help) words="{0}" ;;
    *) return ;;
  esac
  IFS=$' \t\n'
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -F _mlx_mamba mlx-mamba
)",
                     command_names(), cases);
}

std::string zsh_values(const Option& option) {
  switch (option.offer) {
    case Offer::kFiles:
      return "_files";
    case Offer::kFolders:
      return "_files -/";
    case Offer::kWords:
      return fmt::format("({})", fmt::join(option.words, " "));
    case Offer::kNothing:
      break;
  }
  return "";
}

std::string zsh_script() {
  std::string list;
  std::string cases;
  for_each_command([&](const Command& command, const OptionTable& options) {
    list += fmt::format("    '{}:{}'\n", command.name, quoted_part(escaped(command.summary, ":")));
    std::string specs;
    for (const Option& option : options.options()) {
      if (option.is_positional()) {
        specs += fmt::format(" \\\n        '1:{}:{}'", option.name, zsh_values(option));
        continue;
      }
      specs += fmt::format(" \\\n        '{}{}[{}]", option.repeats ? "*" : "", option.name,
                           quoted_part(escaped(option.help, "[]:")));
      specs += option.is_flag() ? "'" : fmt::format(":{}:{}'", option.value_name, zsh_values(option));
    }
    cases += fmt::format("    {})\n      _arguments{} ;;\n", command.name, specs);
  });
  return fmt::format(R"(#compdef mlx-mamba
_mlx_mamba() {{
  local -a commands
  commands=(
{0}  )
  if (( CURRENT == 2 )); then
    _describe command commands
    _arguments '--help[show the commands]' '--version[show the versions]'
    return
  fi
  local name=$words[2]
  shift words
  (( CURRENT-- ))
  case $name in
{1}    help) _describe command commands ;;
  esac
}}
if [[ $funcstack[1] == _mlx_mamba || $funcstack[1] == _mlx-mamba ]]; then
  _mlx_mamba "$@"
else
  compdef _mlx_mamba mlx-mamba
fi
)",
                     list, cases);
}

std::string fish_quoted(const std::string& text) {
  return "'" + escaped(text, "\\'") + "'";
}

std::string fish_script() {
  std::string out =
      "# fish completion for mlx-mamba\n"
      "complete -c mlx-mamba -f\n"
      "complete -c mlx-mamba -n __fish_use_subcommand -l help -s h -d 'show the commands'\n"
      "complete -c mlx-mamba -n __fish_use_subcommand -l version -d 'show the versions'\n";
  for_each_command([&](const Command& command, const OptionTable& options) {
    out += fmt::format("complete -c mlx-mamba -n __fish_use_subcommand -a {} -d {}\n", command.name,
                       fish_quoted(command.summary));
    const std::string where = fmt::format("complete -c mlx-mamba -n '__fish_seen_subcommand_from {}'", command.name);
    for (const Option& option : options.options()) {
      const std::string words =
          option.offer == Offer::kWords
              ? fmt::format(" -a {}", fish_quoted(fmt::format("{}", fmt::join(option.words, " "))))
              : "";
      if (option.is_positional()) {
        out += fmt::format("{}{}\n", where, words);
        continue;
      }
      std::string value = option.is_flag() ? "" : " -x" + words;
      if (option.offer == Offer::kFiles) {
        value = " -r -F";
      } else if (option.offer == Offer::kFolders) {
        value = " -x -a '(__fish_complete_directories)'";
      }
      out += fmt::format("{} -l {}{}{} -d {}\n", where, option.name.substr(2),
                         option.short_name.empty() ? "" : " -s " + option.short_name.substr(1), value,
                         fish_quoted(option.help));
    }
  });
  return out;
}

}  // namespace

std::string completion_script(const std::string& shell) {
  if (shell == "bash") {
    return bash_script();
  }
  return shell == "zsh" ? zsh_script() : fish_script();
}

}  // namespace mamba::cli
