// Adapters as PEFT keeps them: a folder with adapter_config.json and adapter_model.safetensors or adapter_model.bin.
#pragma once

#include <filesystem>
#include <string>

#include "mamba/models/lora.h"

namespace mamba::models {

inline constexpr const char* kAdapterConfig = "adapter_config.json";

// Weights' files, in the order in which they are looked for.
const std::vector<std::string>& adapter_file_names();

// Reads `<directory>/adapter_config.json`. Throws Error or ParseError naming file and field, also for what would change
// the numbers and is not done here: other methods than LoRA, DoRA, trained biases or whole modules, and the like.
LoraConfig read_adapter_config(const std::filesystem::path& directory);

// The same from the file's text; `file` is for messages.
LoraConfig parse_adapter_config(const std::string& text, const std::string& file);

// The text of an adapter_config.json that PEFT reads.
std::string adapter_config_text(const LoraConfig& config);

// Puts the folder's adapter in front of `model`'s weights, each tensor in its stored dtype. Returns its configuration.
// Throws as read_adapter_config() and add_lora() do, and Error naming file and tensor for tensors missing, superfluous,
// misshapen, or no floats. `model` is as before when it throws.
LoraConfig load_adapter(MambaLM& model, const std::filesystem::path& directory);

// Writes `model`'s adapter, which `config` describes. The configuration comes last, so that a folder with one is whole.
void save_adapter(MambaLM& model, const LoraConfig& config, const std::filesystem::path& directory);

// Writes what save_adapter() wrote to `from` to `to` as well.
void copy_adapter(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace mamba::models
