#include "mamba/models/lora.h"

#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "mamba/base/error.h"
#include "mamba/models/checkpoint.h"
#include "mamba/models/dequantize.h"

namespace mamba::models {

namespace mx = mlx::core;

namespace {

// Every module of the model that a name could mean, as PyTorch names them.
std::vector<std::string> module_paths(const Config& config) {
  std::vector<std::string> paths = {"backbone", "backbone.embeddings", "backbone.layers"};
  for (int i = 0; i < config.n_layer; ++i) {
    const std::string layer = fmt::format("backbone.layers.{}", i);
    for (const char* name : {"", ".norm", ".mixer", ".mixer.conv1d", ".mixer.act", ".mixer.in_proj", ".mixer.x_proj",
                             ".mixer.dt_proj", ".mixer.out_proj"}) {
      paths.push_back(layer + name);
    }
  }
  paths.insert(paths.end(), {"backbone.norm_f", "lm_head"});
  return paths;
}

bool takes_lora(const std::string& path) {
  return path != "lm_head" && std::any_of(lora_target_names().begin(), lora_target_names().end(),
                                          [&](const std::string& name) { return names_module(name, path); });
}

int layer_of(const std::string& path) {
  const std::string prefix = "backbone.layers.";
  return path.starts_with(prefix) ? std::stoi(path.substr(prefix.size())) : -1;
}

// The value of the first pattern that matches the end of `path`.
template <typename T>
T value_for(const std::string& path, const std::vector<std::pair<std::string, T>>& patterns, T otherwise) {
  for (const auto& [pattern, value] : patterns) {
    if (ModulePattern("(.*\\.)?(" + pattern + ")").matches(path)) {
      return value;
    }
  }
  return otherwise;
}

void check_names(const LoraConfig& config, const std::vector<std::string>& paths) {
  for (const std::string& name : config.target_modules.names) {
    const bool found =
        std::any_of(paths.begin(), paths.end(), [&](const std::string& path) { return names_module(name, path); });
    if (!found) {
      throw UsageError(fmt::format("LoRA target {} is no layer of this model: choose among {}", quote(name),
                                   fmt::join(lora_target_names(), ", ")));
    }
  }
}

}  // namespace

const std::vector<std::string>& lora_target_names() {
  static const std::vector<std::string> names = {"in_proj", "x_proj", "dt_proj", "out_proj"};
  return names;
}

std::vector<LoraModule> lora_modules(const LoraConfig& config, const Config& model_config) {
  const std::vector<std::string> paths = module_paths(model_config);
  check_names(config, paths);
  const std::vector<std::string> excluded = config.exclude_modules.select(paths);
  std::vector<LoraModule> modules;
  for (const std::string& path : config.target_modules.select(paths)) {
    const std::vector<int>& layers = config.layers_to_transform;
    const bool in_layers = layers.empty() || std::find(layers.begin(), layers.end(), layer_of(path)) != layers.end();
    if (!in_layers || std::find(excluded.begin(), excluded.end(), path) != excluded.end()) {
      continue;
    }
    if (!takes_lora(path)) {
      throw UsageError(fmt::format("{} cannot have a LoRA adapter here: choose LoRA targets among {}", path,
                                   fmt::join(lora_target_names(), ", ")));
    }
    const int rank = value_for(path, config.rank_pattern, config.rank);
    const double alpha = value_for(path, config.alpha_pattern, config.alpha);
    if (rank < 1) {
      throw UsageError(fmt::format("the rank of LoRA adapters must be at least 1 but is {} for {}", rank, path));
    }
    const double divisor = config.rslora ? std::sqrt(static_cast<double>(rank)) : rank;
    modules.push_back({.path = path, .rank = rank, .scale = static_cast<float>(alpha / divisor)});
  }
  if (modules.empty()) {
    throw UsageError(fmt::format("the LoRA targets mean no layer of this model: choose among {}",
                                 fmt::join(lora_target_names(), ", ")));
  }
  return modules;
}

void add_lora(MambaLM& model, const LoraConfig& config, uint64_t seed) {
  if (has_lora(model)) {
    throw UsageError("the model has a LoRA adapter already: merge it first");
  }
  std::map<std::string, LoraModule> modules;
  for (LoraModule& module : lora_modules(config, model.config())) {
    modules.emplace(module.path, module);
  }
  mx::array key = mx::random::key(seed);
  std::vector<mx::array> values;
  model.visit_linears("", [&](const std::string& path, nn::Linear& layer) {
    const auto found = modules.find(path);
    if (found == modules.end()) {
      return;
    }
    const mx::Shape shape = parameter_shape(path + ".weight", model.config());
    const auto [own, rest] = mx::random::split(key);
    key = rest;
    layer.lora = nn::Lora::initial(shape[1], shape[0], found->second.rank, found->second.scale, own);
    values.insert(values.end(), {layer.lora->A, layer.lora->B});
  });
  mx::eval(values);
}

void merge_lora(MambaLM& model, std::optional<mx::Dtype> dtype) {
  if (model.is_quantized()) {
    if (!dtype) {
      throw UsageError("the model is quantised: name the dtype that the merged weights shall have, and quantise again");
    }
    dequantize(model, *dtype);
  }
  model.visit_linears("", [&](const std::string&, nn::Linear& layer) {
    if (layer.lora) {
      const mx::array merged = mx::add(mx::astype(layer.weight, mx::float32), layer.lora->product());
      layer.weight = mx::astype(merged, dtype.value_or(layer.weight.dtype()));
      layer.lora.reset();
      mx::eval(layer.weight);
    }
  });
}

bool has_lora(MambaLM& model) {
  bool found = false;
  model.visit_linears("", [&](const std::string&, nn::Linear& layer) { found = found || layer.lora.has_value(); });
  return found;
}

void LoraParameters::visit(const std::string& path, const nn::ParameterVisitor& visitor) {
  model.visit_linears(path, [&](const std::string& layer_path, nn::Linear& layer) {
    if (layer.lora) {
      layer.lora->visit(layer_path, visitor);
    }
  });
}

}  // namespace mamba::models
