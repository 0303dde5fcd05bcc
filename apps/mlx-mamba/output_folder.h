// The folder that a command writes a model into.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace mamba::cli {

// --out. Throws UsageError without one; `command` is for the message.
std::filesystem::path output_folder(const std::optional<std::string>& out, const char* command);

// Throws UsageError where `out` is the folder `source` itself; `what` it is: "model".
void check_other_folder(const std::filesystem::path& out, const std::filesystem::path& source, const char* what);

}  // namespace mamba::cli
