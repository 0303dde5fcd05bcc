// Writing checkpoints: safetensors, one file or several, in the layout that Hugging Face's tools read.
#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "mamba/base/progress.h"
#include "mamba/io/tensor_source.h"

namespace mamba::io {

// One tensor of a file to write. `produce` is called once, when its turn comes, and its result is dropped when it is
// written: a checkpoint is converted with one tensor in memory at a time. It must return that dtype and shape.
struct TensorToSave {
  std::string name;
  mlx::core::Dtype dtype;
  mlx::core::Shape shape;
  std::function<mlx::core::array()> produce;
};

TensorToSave to_save(std::string name, mlx::core::array value);
std::vector<TensorToSave> to_save(const std::map<std::string, mlx::core::array>& arrays);

inline const Metadata kTorchFormat = {{"format", "pt"}};  // transformers refuses files without it

// Writes `path` whole or not at all. Tensors lie in order of falling item size, then name, and the header is padded so
// that the first one starts at a multiple of 64 bytes; so every tensor is aligned to its items. Throws UsageError for
// names that come twice or are not UTF-8 and for complex numbers, Error when the file cannot be written.
void save_safetensors(const std::filesystem::path& path, std::vector<TensorToSave> tensors,
                      const Metadata& metadata = kTorchFormat, const ProgressFn& progress = {});

inline constexpr uint64_t kDefaultShardBytes = 5'000'000'000;

// Writes `directory`/model.safetensors, or, when the tensors need more than `max_shard_bytes`, files
// model-00001-of-0000N.safetensors filled in the order of `tensors` and then model.safetensors.index.json. Nothing
// appears under its name before every byte is written. Weights of an earlier save that the new ones replace are
// removed. Makes the folder when it is missing.
void save_checkpoint(const std::filesystem::path& directory, std::vector<TensorToSave> tensors,
                     uint64_t max_shard_bytes = kDefaultShardBytes, const Metadata& metadata = kTorchFormat,
                     const ProgressFn& progress = {});

}  // namespace mamba::io
