#include "mamba/models/quantization.h"

#include <algorithm>
#include <initializer_list>
#include <vector>

namespace mamba::models {

namespace {

int one_of(const JsonObject& json, const std::string& key, std::initializer_list<int> allowed) {
  const int64_t value = json.integer(key, 1, INT32_MAX);
  if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
    json.fail(fmt::format("field {} must be one of {} but is {}", json.name(key), fmt::join(allowed, ", "), value));
  }
  return static_cast<int>(value);
}

Quantization parse_one(const JsonObject& json) {
  const std::string mode = json.string_or("mode", "affine");
  if (mode != "affine") {
    json.fail(fmt::format("field {} must be \"affine\" but is {}", json.name("mode"), quote(mode)));
  }
  return {.group_size = one_of(json, "group_size", {32, 64, 128}), .bits = one_of(json, "bits", {4, 8})};
}

}  // namespace

std::optional<QuantizationConfig> parse_quantization(const JsonObject& config) {
  const std::string key = config.has("quantization") ? "quantization" : "quantization_config";
  if (!config.has(key)) {
    return std::nullopt;
  }
  const JsonObject json = config.object(key);
  if (json.has("quant_method")) {
    json.fail(fmt::format("field {} is {}, which is not supported: weights may be quantised in MLX's affine format",
                          json.name("quant_method"), quote(json.string("quant_method"))));
  }
  QuantizationConfig quantization{.common = parse_one(json)};
  const std::string dtype = config.string_or("torch_dtype", config.string_or("dtype", quantization.dtype));
  if (dtype == "bfloat16" || dtype == "float16") {
    quantization.dtype = dtype;
  }
  for (const auto& [path, value] : json.json().items()) {
    if (value.is_boolean()) {
      quantization.modules[path] = value.get<bool>() ? std::optional(quantization.common) : std::nullopt;
    } else if (value.is_object()) {
      quantization.modules[path] = parse_one(json.object(path));
    }
  }
  return quantization;
}

Json quantization_json(const QuantizationConfig& quantization) {
  const auto one = [](const Quantization& q) {
    return Json{{"group_size", q.group_size}, {"bits", q.bits}, {"mode", "affine"}};
  };
  Json json = one(quantization.common);
  for (const auto& [path, exception] : quantization.modules) {
    json[path] = exception ? one(*exception) : Json(false);
  }
  return json;
}

}  // namespace mamba::models
