// The JSON header of a safetensors file, read and checked.
#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "mamba/io/tensor_source.h"

namespace mamba::io {

struct SafetensorsHeader {
  struct Tensor {
    TensorInfo info;
    uint64_t begin;  // in the data that follows the header
    uint64_t end;
    int64_t at;  // where in the file the header names it
  };
  std::map<std::string, Tensor> tensors;
  Metadata metadata;
};

// `json` starts at `base` in `file`; `data_size` bytes of tensors follow it. Throws ParseError.
SafetensorsHeader parse_safetensors_header(std::string_view json, const std::string& file, int64_t base,
                                           uint64_t data_size);

}  // namespace mamba::io
