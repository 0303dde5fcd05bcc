// What torch.save writes (since torch 1.6): a zip archive of a pickle and one record per storage. Read without torch,
// and without running anything that the pickle asks for.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "mamba/io/block.h"
#include "mamba/io/tensor_source.h"

namespace mamba::io {

// Opens pytorch_model.bin, .pt or .pth. Tensors that share a storage share its bytes; views with other strides are
// copied when they are loaded. Throws ParseError; offsets in errors about the pickle count from the pickle's start.
std::unique_ptr<TensorSource> open_torch(const std::filesystem::path& path);

// The same from memory; `file` is what errors call it.
std::unique_ptr<TensorSource> read_torch(Block bytes, std::string file);

}  // namespace mamba::io
