#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "apps/mlx-mamba/command.h"
#include "apps/mlx-mamba/completion_script.h"
#include "apps/mlx-mamba/console.h"
#include "mamba/base/error.h"

namespace mamba::cli {
namespace {

std::function<int()> declare_completion(OptionTable& table) {
  const auto shell = std::make_shared<std::optional<std::string>>();
  table.choice("SHELL", "SHELL", {"bash", "zsh", "fish"}, shell.get(), "bash, zsh or fish");
  return [shell] {
    if (!*shell) {
      throw UsageError("name the shell: bash, zsh or fish (see mlx-mamba completion --help)");
    }
    put(completion_script(**shell));
    return 0;
  };
}

}  // namespace

const Command kCompletion = {"completion", "Prints a script that lets a shell complete commands, options and values.",
                             "An installed program brings these scripts along.",
                             "  source <(mlx-mamba completion bash)\n"
                             "  mlx-mamba completion zsh > ~/.zfunc/_mlx-mamba        # where fpath has ~/.zfunc\n"
                             "  mlx-mamba completion fish > ~/.config/fish/completions/mlx-mamba.fish\n",
                             declare_completion};

}  // namespace mamba::cli
