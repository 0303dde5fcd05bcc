// Low-rank adapters of a whole model: which layers get one, and the adapter's parameters apart from the model's.
#pragma once

#include <mlx/dtype.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mamba/models/mamba.h"
#include "mamba/models/module_names.h"

namespace mamba::models {

// Names are PEFT's, except for these: rank is "r", alpha "lora_alpha", rslora "use_rslora".
struct LoraConfig {
  int rank = 8;
  double alpha = 8;
  bool rslora = false;  // scale alpha / sqrt(rank) instead of alpha / rank

  // Of in_proj, x_proj, dt_proj and out_proj, in every layer unless the names say which.
  ModuleSelection target_modules;
  ModuleSelection exclude_modules = {};
  std::vector<int> layers_to_transform = {};  // empty: all

  // Exceptions by regular expression, which matches the end of a path; the first one counts.
  std::vector<std::pair<std::string, int>> rank_pattern = {};
  std::vector<std::pair<std::string, double>> alpha_pattern = {};

  std::string base_model = {};     // base_model_name_or_path: folder or repository; empty: unknown
  std::string base_revision = {};  // "revision" of that repository; empty: its main branch
};

// Names of all layers that take an adapter.
const std::vector<std::string>& lora_target_names();

// One layer's adapter before it has values.
struct LoraModule {
  std::string path;  // "backbone.layers.0.mixer.in_proj"
  int rank = 0;
  float scale = 0;
};

// The layers of a model of `model_config` that `config` means, in the model's order. Throws UsageError for names that
// mean nothing, for modules that take no adapter here (convolution, norms, embeddings, output layer), and when none is
// left.
std::vector<LoraModule> lora_modules(const LoraConfig& config, const Config& model_config);

// Puts fresh adapters in front of the weights: A random, B zero, so that the model computes what it did. The same seed
// gives the same values. Throws as lora_modules() does, and when the model has an adapter.
void add_lora(MambaLM& model, const LoraConfig& config, uint64_t seed);

// Adds each adapter's product to its layer's weights and takes the adapters away. Sums are float32 and rounded once,
// to the weights' dtype or to the one given. Throws UsageError for a quantised model without a dtype, and with one
// dequantises it.
void merge_lora(MambaLM& model, std::optional<mlx::core::Dtype> dtype = {});

bool has_lora(MambaLM& model);

// The adapter's arrays, and they alone, as nn::parameters(), nn::parameter_list() and nn::set_parameter_list() take
// them: "backbone.layers.0.mixer.in_proj.lora_A.weight", then its lora_B, and so on. Model::visit() passes these by.
struct LoraParameters {
  MambaLM& model;

  void visit(const std::string& path, const nn::ParameterVisitor& visitor);
};

}  // namespace mamba::models
