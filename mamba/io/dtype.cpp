#include "mamba/io/dtype.h"

namespace mamba::io {

namespace mx = mlx::core;

namespace {

struct Row {
  mx::Dtype dtype;
  std::string_view name;
  std::string_view safetensors;
};

constexpr Row kRows[] = {
    {mx::bool_, "bool", "BOOL"},     {mx::uint8, "uint8", "U8"},         {mx::int8, "int8", "I8"},
    {mx::uint16, "uint16", "U16"},   {mx::int16, "int16", "I16"},        {mx::uint32, "uint32", "U32"},
    {mx::int32, "int32", "I32"},     {mx::uint64, "uint64", "U64"},      {mx::int64, "int64", "I64"},
    {mx::float16, "float16", "F16"}, {mx::bfloat16, "bfloat16", "BF16"}, {mx::float32, "float32", "F32"},
    {mx::float64, "float64", "F64"},
};

}  // namespace

std::optional<mx::Dtype> dtype_of_safetensors_name(std::string_view name) {
  for (const Row& row : kRows) {
    if (row.safetensors == name) {
      return row.dtype;
    }
  }
  return std::nullopt;
}

std::optional<std::string_view> safetensors_name(mx::Dtype dtype) {
  for (const Row& row : kRows) {
    if (row.dtype == dtype) {
      return row.safetensors;
    }
  }
  return std::nullopt;
}

std::optional<mx::Dtype> dtype_of_name(std::string_view name) {
  for (const Row& row : kRows) {
    if (row.name == name) {
      return row.dtype;
    }
  }
  return std::nullopt;
}

std::string_view dtype_name(mx::Dtype dtype) {
  for (const Row& row : kRows) {
    if (row.dtype == dtype) {
      return row.name;
    }
  }
  return "complex64";
}

}  // namespace mamba::io
