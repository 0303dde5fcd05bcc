// What --help and --version print.
#pragma once

#include <span>
#include <string>

#include "apps/mlx-mamba/command.h"

namespace mamba::cli {

std::string program_help();
std::string command_help(const Command& command, const OptionTable& options);
std::string version_text();

}  // namespace mamba::cli
