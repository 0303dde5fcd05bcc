// Loading and saving models: a checkpoint folder <-> a MambaLM.
#pragma once

#include <mlx/dtype.h>

#include <filesystem>
#include <optional>
#include <string>

#include "mamba/base/progress.h"
#include "mamba/models/mamba.h"

namespace mamba::models {

// Reads `directory` (config.json and weights, layouts of Hugging Face and of state-spaces). Weights keep their stored
// dtype unless `dtype` names one (models/checkpoint.h says which tensors do not follow it down). Throws
// ParseError or Error naming the file, the tensor, and what was expected, for missing, superfluous and misshapen
// tensors and for dtypes that are no floats. The model comes prepared for inference.
MambaLM load_model(const std::filesystem::path& directory, std::optional<mlx::core::Dtype> dtype = {});

// Writes config.json and model.safetensors (sharded above 5 GB) in Hugging Face's layout: transformers opens it. The
// config is written last, so that a folder with one is whole.
void save_model(MambaLM& model, const std::filesystem::path& directory);

// "float32", "bfloat16", "float16" and back. Throws UsageError for other names.
mlx::core::Dtype parse_dtype(const std::string& name);
std::string dtype_name(mlx::core::Dtype dtype);

}  // namespace mamba::models
