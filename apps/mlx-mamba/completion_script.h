// Completion scripts for shells, written from the commands' own option tables.
#pragma once

#include <string>

namespace mamba::cli {

// `shell`: "bash", "zsh" or "fish".
std::string completion_script(const std::string& shell);

}  // namespace mamba::cli
