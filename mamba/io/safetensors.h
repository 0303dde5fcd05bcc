// safetensors files: eight bytes with the length of a JSON header, the header, the tensors' bytes.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "mamba/io/block.h"
#include "mamba/io/tensor_source.h"

namespace mamba::io {

// Opens a file. Accepts what the format allows: a header of at most 100 MB that is one JSON object, `__metadata__` of
// strings, the dtypes BOOL U8 I8 U16 I16 U32 I32 U64 I64 F16 BF16 F32 F64 (each loaded exactly as it is, F64 as
// float64), and tensors that cover the data without holes or overlaps. Anything else is a ParseError with its offset in
// the file.
std::unique_ptr<TensorSource> open_safetensors(const std::filesystem::path& path);

// The same from memory; `file` is what errors call it.
std::unique_ptr<TensorSource> read_safetensors(Block bytes, std::string file);

inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

}  // namespace mamba::io
