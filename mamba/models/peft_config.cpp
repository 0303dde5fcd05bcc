#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>

#include "mamba/base/file.h"
#include "mamba/base/json.h"
#include "mamba/models/peft.h"

namespace mamba::models {

namespace {

constexpr int kMaxRank = 1 << 20;
constexpr double kMaxAlpha = 1e9;
constexpr const char* kAllLinear = "all-linear";

// Fields that change what an adapter computes, in ways that are not built here. Absent, null, false and empty are fine.
constexpr std::array kRefused = {"use_dora",          "modules_to_save",
                                 "layer_replication", "use_qalora",
                                 "lora_bias",         "trainable_token_indices",
                                 "target_parameters", "arrow_config",
                                 "use_bdlora",        "alora_invocation_tokens",
                                 "megatron_config",   "velora_config",
                                 "monteclora_config", "kasa_config"};

// Ways to begin that leave the weights in front of which the adapter stands as they are.
constexpr std::array kPlainStarts = {"gaussian", "eva", "orthogonal"};

bool says_nothing(const Json& value) {
  return value.is_null() || value == Json(false) || ((value.is_structured() || value.is_string()) && value.empty());
}

void refuse_what_is_not_done(const JsonObject& json) {
  const auto refuse = [&](const char* field, const std::string& remedy) {
    json.fail(fmt::format("field {} is {}, which is not supported: {}", quote(field), shown_json(json.json().at(field)),
                          remedy));
  };
  const std::string type = json.string("peft_type");
  if (type != "LORA") {
    refuse("peft_type", "only LORA is");
  }
  if (json.string_or("bias", "none") != "none") {
    refuse("bias", "merge the adapter with PEFT and load the result as a model");
  }
  for (const char* field : kRefused) {
    if (const Json* value = json.find(field); value != nullptr && !says_nothing(*value)) {
      refuse(field, "merge the adapter with PEFT and load the result as a model");
    }
  }
  // PiSSA, OLoRA, CorDA and LoftQ change the weights behind the adapter, which its files do not tell.
  if (const Json* start = json.find("init_lora_weights"); start != nullptr && start->is_string()) {
    const bool plain =
        std::any_of(kPlainStarts.begin(), kPlainStarts.end(), [&](const char* name) { return *start == name; });
    if (!plain) {
      refuse("init_lora_weights", "convert the adapter to plain LoRA with PEFT");
    }
  }
}

std::vector<std::string> strings(const JsonObject& json, const char* field, const Json& list) {
  std::vector<std::string> out;
  for (const Json& item : list) {
    if (!item.is_string() || item.get<std::string>().empty()) {
      json.fail(fmt::format("field {} must list names but holds {}", quote(field), shown_json(item)));
    }
    out.push_back(item.get<std::string>());
  }
  return out;
}

ModuleSelection selection(const JsonObject& json, const char* field) {
  const Json* value = json.find(field);
  if (value == nullptr) {
    return {};
  }
  if (value->is_array()) {
    return {.names = strings(json, field, *value)};
  }
  if (!value->is_string()) {
    json.fail(fmt::format("field {} must be a list of names or a string but is {}", quote(field), shown_json(*value)));
  }
  const auto text = value->get<std::string>();
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  if (lower == kAllLinear) {
    return {.names = lora_target_names()};
  }
  try {
    const ModulePattern compiles(text);
  } catch (const UsageError& e) {
    json.fail(fmt::format("field {}: {}", quote(field), e.what()));
  }
  return {.pattern = text};
}

std::vector<int> layers(const JsonObject& json) {
  const char* field = "layers_to_transform";
  const Json* value = json.find(field);
  if (value == nullptr) {
    return {};
  }
  if (const Json* pattern = json.find("layers_pattern"); pattern != nullptr && !says_nothing(*pattern)) {
    const Json names = pattern->is_array() ? *pattern : Json::array({*pattern});
    if (std::find(names.begin(), names.end(), Json("layers")) == names.end()) {
      json.fail(fmt::format("field \"layers_pattern\" must name \"layers\" but is {}", shown_json(*pattern)));
    }
  }
  const Json list = value->is_array() ? *value : Json::array({*value});
  std::vector<int> out;
  for (const Json& item : list) {
    const Json wrapped = {{field, item}};
    out.push_back(static_cast<int>(JsonObject(wrapped, json.file()).integer(field, 0, INT32_MAX)));
  }
  return out;
}

// Patterns in the order of the file, since the first one that matches counts.
std::vector<std::pair<std::string, double>> patterns(const JsonObject& json, const OrderedJson& ordered,
                                                     const char* field, double low, double high) {
  std::vector<std::pair<std::string, double>> out;
  if (!json.has(field)) {
    return out;
  }
  const JsonObject object = json.object(field);
  for (const auto& [pattern, ignored] : ordered.at(field).items()) {
    try {
      const ModulePattern compiles(pattern);
    } catch (const UsageError& e) {
      json.fail(fmt::format("field {}: {}", quote(field), e.what()));
    }
    out.emplace_back(pattern, object.number_or(pattern, 0, low, high));
  }
  return out;
}

OrderedJson whole_or_not(double value) {
  return value == std::floor(value) && std::abs(value) < 9e15 ? OrderedJson(static_cast<int64_t>(value))
                                                              : OrderedJson(value);
}

OrderedJson selection_json(const ModuleSelection& selection) {
  if (selection.empty()) {
    return nullptr;
  }
  return selection.pattern.empty() ? OrderedJson(selection.names) : OrderedJson(selection.pattern);
}

OrderedJson text_or_null(const std::string& text) {
  return text.empty() ? OrderedJson(nullptr) : OrderedJson(text);
}

}  // namespace

LoraConfig parse_adapter_config(const std::string& text, const std::string& file) {
  const Json parsed = parse_json(text, file);  // bounds the depth for the second reading below
  const JsonObject json(parsed, file);
  const OrderedJson ordered = parse_ordered_json(text);
  refuse_what_is_not_done(json);
  LoraConfig config;
  config.rank = static_cast<int>(json.integer_or("r", 8, 1, kMaxRank));
  config.alpha = json.number_or("lora_alpha", 8, -kMaxAlpha, kMaxAlpha);
  config.rslora = json.boolean_or("use_rslora", false);
  config.target_modules = selection(json, "target_modules");
  if (config.target_modules.empty()) {
    json.fail(fmt::format("field \"target_modules\" names no layer: it must name some of {}, or be \"all-linear\"",
                          fmt::join(lora_target_names(), ", ")));
  }
  config.exclude_modules = selection(json, "exclude_modules");
  config.layers_to_transform = layers(json);
  for (const auto& [pattern, rank] : patterns(json, ordered, "rank_pattern", 1, kMaxRank)) {
    if (rank != std::floor(rank)) {
      json.fail(
          fmt::format("field \"rank_pattern\": the rank of {} must be an integer but is {}", quote(pattern), rank));
    }
    config.rank_pattern.emplace_back(pattern, static_cast<int>(rank));
  }
  config.alpha_pattern = patterns(json, ordered, "alpha_pattern", -kMaxAlpha, kMaxAlpha);
  config.base_model = json.string_or("base_model_name_or_path", "");
  config.base_revision = json.string_or("revision", "");
  return config;
}

LoraConfig read_adapter_config(const std::filesystem::path& directory) {
  check(std::filesystem::is_directory(directory), "{}: is no folder with an adapter", directory.string());
  const std::filesystem::path path = directory / kAdapterConfig;
  check(std::filesystem::exists(path), "{}: holds no adapter: {} is missing", directory.string(), kAdapterConfig);
  constexpr uint64_t kMaxBytes = uint64_t{1} << 24;
  return parse_adapter_config(read_file(path, kMaxBytes), path.string());
}

std::string adapter_config_text(const LoraConfig& config) {
  OrderedJson ranks = OrderedJson::object();
  for (const auto& [pattern, rank] : config.rank_pattern) {
    ranks[pattern] = rank;
  }
  OrderedJson alphas = OrderedJson::object();
  for (const auto& [pattern, alpha] : config.alpha_pattern) {
    alphas[pattern] = whole_or_not(alpha);
  }
  const std::vector<int>& layers = config.layers_to_transform;
  const OrderedJson json = {
      {"peft_type", "LORA"},
      {"task_type", "CAUSAL_LM"},
      {"base_model_name_or_path", text_or_null(config.base_model)},
      {"revision", text_or_null(config.base_revision)},
      {"inference_mode", true},
      {"r", config.rank},
      {"lora_alpha", whole_or_not(config.alpha)},
      {"lora_dropout", 0.0},
      {"use_rslora", config.rslora},
      {"target_modules", selection_json(config.target_modules)},
      {"exclude_modules", selection_json(config.exclude_modules)},
      {"layers_to_transform", layers.empty() ? OrderedJson(nullptr) : OrderedJson(layers)},
      {"layers_pattern", nullptr},
      {"rank_pattern", ranks},
      {"alpha_pattern", alphas},
      {"bias", "none"},
      {"fan_in_fan_out", false},
      {"init_lora_weights", true},
      {"modules_to_save", nullptr},
      {"use_dora", false},
  };
  return json_text(json, 2) + "\n";
}

}  // namespace mamba::models
