// What a config.json says of quantised weights: mlx-lm's field "quantization".
#pragma once

#include <map>
#include <optional>
#include <string>

#include "mamba/base/json.h"

namespace mamba::models {

// Of one matrix in MLX's affine format (ops/quantized_linear).
struct Quantization {
  int group_size = 64;  // 32, 64 or 128
  int bits = 8;         // 4 or 8

  bool operator==(const Quantization&) const = default;
};

struct QuantizationConfig {
  Quantization common;
  // Exceptions by path; none: floats. A matrix without one is quantised where the checkpoint holds scales for it, and
  // its group size and bits are those that the shapes of its parts tell, as in mlx-lm.
  std::map<std::string, std::optional<Quantization>> modules = {};
  // What the model computes in unless the caller says otherwise: "torch_dtype" or "dtype" of the configuration.
  std::string dtype = "float32";

  bool operator==(const QuantizationConfig&) const = default;
};

// The field "quantization" of `config`, or "quantization_config" where there is but that; nothing where there is
// neither. Throws ParseError naming the field for bits or group sizes that no kernel has, other modes than affine, and
// methods of other programs (GPTQ, AWQ, ...).
std::optional<QuantizationConfig> parse_quantization(const JsonObject& config);

Json quantization_json(const QuantizationConfig& quantization);

}  // namespace mamba::models
