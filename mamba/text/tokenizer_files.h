// A tokenizer's files beside a model's.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace mamba::text {

// What travels with a tokenizer.json, itself first; all but it may be absent.
const std::vector<std::string>& tokenizer_file_names();

// Copies `tokenizer` (a tokenizer.json) and its companions into `directory`, each whole or not at all, and adds a
// tokenizer_config.json where there is none: transformers asks for one. Throws Error when one cannot be copied.
void copy_tokenizer_files(const std::filesystem::path& tokenizer, const std::filesystem::path& directory);

}  // namespace mamba::text
