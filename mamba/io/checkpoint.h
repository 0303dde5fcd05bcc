// A model's weights, in whatever files they are.
#pragma once

#include <filesystem>
#include <memory>

#include "mamba/io/tensor_source.h"

namespace mamba::io {

// Opens a folder's weights: the first there is of
//   model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json.
// An index names, for each tensor, the file of the same folder that holds it; every file is opened, and every tensor
// must be where the index says. `path` may also be one file of weights, which is known by its first bytes. Throws
// Error.
std::unique_ptr<TensorSource> open_checkpoint(const std::filesystem::path& path);

// The names above, in order: what a downloader should look for.
const std::vector<std::string>& checkpoint_file_names();

}  // namespace mamba::io
