// The names that files give to dtypes.
#pragma once

#include <mlx/dtype.h>

#include <optional>
#include <string_view>

namespace mamba::io {

// "F32" <-> float32. Nothing for a name that is unknown or has no counterpart here (the 8-bit floats, complex).
std::optional<mlx::core::Dtype> dtype_of_safetensors_name(std::string_view name);
std::optional<std::string_view> safetensors_name(mlx::core::Dtype dtype);

// "float32" <-> float32, as torch and config files write it ("bool", "bfloat16", ...). Complex numbers have no entry.
std::optional<mlx::core::Dtype> dtype_of_name(std::string_view name);
std::string_view dtype_name(mlx::core::Dtype dtype);

}  // namespace mamba::io
