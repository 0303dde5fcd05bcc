#include "mamba/models/config.h"

#include <algorithm>

namespace mamba::models {
namespace {

// Larger than any Mamba there is by a factor of ten or more: what exceeds these is a broken file, and everything
// below fits 64-bit products.
constexpr int64_t kMaxWidth = 1 << 17;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxVocabulary = 1 << 24;
constexpr int64_t kMaxState = 4096;
constexpr int64_t kMaxKernel = 64;
constexpr int64_t kMaxExpand = 64;

int to_int(int64_t value) {
  return static_cast<int>(value);
}

// dt_rank is "auto" or a number in both layouts.
int read_dt_rank(const JsonObject& json, const std::string& key, int d_model) {
  const Json* value = json.find(key);
  if (value == nullptr || (value->is_string() && value->get<std::string>() == "auto")) {
    return (d_model + 15) / 16;
  }
  return to_int(json.integer(key, 1, kMaxWidth));
}

void read_dt_init(const JsonObject& json, const std::string& prefix, const std::string& init_key, Config& config) {
  config.dt_min = json.number_or(prefix + "min", config.dt_min, 1e-12, 1e6);
  config.dt_max = json.number_or(prefix + "max", config.dt_max, 1e-12, 1e6);
  config.dt_scale = json.number_or(prefix + "scale", config.dt_scale, 1e-12, 1e6);
  const std::string scheme = json.string_or(init_key, "random");
  if (scheme != "random" && scheme != "constant") {
    json.fail(fmt::format("field {} must be \"random\" or \"constant\" but is {}", quote(init_key), quote(scheme)));
  }
  config.dt_init_constant = scheme == "constant";
  if (config.dt_min > config.dt_max) {
    json.fail(fmt::format("field {} is {}, larger than {}, which is {}", quote(prefix + "min"), config.dt_min,
                          quote(prefix + "max"), config.dt_max));
  }
}

std::vector<int> read_token_ids(const JsonObject& json, const std::string& key) {
  std::vector<int> ids;
  const Json* value = json.find(key);
  if (value == nullptr) {
    return ids;
  }
  const std::vector<Json> list = value->is_array() ? value->get<std::vector<Json>>() : std::vector<Json>{*value};
  for (const Json& id : list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= kMaxVocabulary) {
      json.fail(fmt::format("field {} must hold token ids", quote(key)));
    }
    ids.push_back(to_int(id.get<int64_t>()));
  }
  return ids;
}

Config parse_hugging_face(const JsonObject& json) {
  Config config;
  config.vocab_size = to_int(json.integer("vocab_size", 1, kMaxVocabulary));
  config.d_model = to_int(json.integer("hidden_size", 1, kMaxWidth));
  config.n_layer = to_int(json.integer(json.has("num_hidden_layers") ? "num_hidden_layers" : "n_layer", 1, kMaxLayers));
  config.d_state = to_int(json.integer_or("state_size", 16, 1, kMaxState));
  config.d_conv = to_int(json.integer_or("conv_kernel", 4, 1, kMaxKernel));
  const int64_t expand = json.integer_or("expand", 2, 1, kMaxExpand);
  // transformers takes expand * hidden_size; intermediate_size repeats it.
  config.d_inner = to_int(json.integer_or("intermediate_size", expand * config.d_model, 1, kMaxWidth * kMaxExpand));
  if (json.has("expand") && config.d_inner != expand * config.d_model) {
    json.fail(fmt::format("field \"intermediate_size\" is {} but expand * hidden_size is {}", config.d_inner,
                          expand * config.d_model));
  }
  config.dt_rank = read_dt_rank(json, "time_step_rank", config.d_model);
  config.tie_embeddings = json.boolean_or("tie_word_embeddings", true);
  config.bias = json.boolean_or("use_bias", false);
  config.conv_bias = json.boolean_or("use_conv_bias", true);
  config.residual_in_fp32 = json.boolean_or("residual_in_fp32", true);
  config.norm_eps = json.number_or("layer_norm_epsilon", 1e-5, 0, 1);
  config.initializer_range = json.number_or("initializer_range", 0.1, 0, 1e3);
  config.dt_init_floor = json.number_or("time_step_floor", 1e-4, 0, 1e6);
  config.rescale_prenorm_residual = json.boolean_or("rescale_prenorm_residual", false);
  read_dt_init(json, "time_step_", "time_step_init_scheme", config);
  const std::string activation = json.string_or("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    json.fail(fmt::format("field \"hidden_act\" must be \"silu\" but is {}", quote(activation)));
  }
  config.quantization = parse_quantization(json);
  config.eos_token_ids = read_token_ids(json, "eos_token_id");
  const std::vector<int> bos = read_token_ids(json, "bos_token_id");
  config.bos_token_id = bos.empty() ? -1 : bos.front();
  const std::vector<int> pad = read_token_ids(json, "pad_token_id");
  config.pad_token_id = pad.empty() ? -1 : pad.front();
  return config;
}

Config parse_state_spaces(const JsonObject& json) {
  Config config;
  config.d_model = to_int(json.integer("d_model", 1, kMaxWidth));
  config.n_layer = to_int(json.integer("n_layer", 1, kMaxLayers));
  const int64_t vocabulary = json.integer("vocab_size", 1, kMaxVocabulary);
  const int64_t multiple = json.integer_or("pad_vocab_size_multiple", 8, 1, kMaxVocabulary);
  config.vocab_size = to_int((vocabulary + multiple - 1) / multiple * multiple);
  if (!json.boolean_or("rms_norm", true)) {
    json.fail("field \"rms_norm\" is false: Mamba with LayerNorm is not supported");
  }
  config.residual_in_fp32 = json.boolean_or("residual_in_fp32", true);
  config.tie_embeddings = json.boolean_or("tie_embeddings", true);
  config.norm_eps = json.number_or("norm_epsilon", 1e-5, 0, 1);
  if (json.integer_or("d_intermediate", 0, 0, kMaxWidth) != 0) {
    json.fail("field \"d_intermediate\" is not 0: blocks with an MLP are not supported");
  }
  if (const Json* attention = json.find("attn_layer_idx"); attention != nullptr && !attention->empty()) {
    json.fail("field \"attn_layer_idx\" names attention layers, which are not supported");
  }
  static const Json empty_object = Json::object();
  const Json* ssm = json.find("ssm_cfg");
  const JsonObject ssm_cfg(ssm == nullptr ? empty_object : *ssm, json.file(), "ssm_cfg");
  const std::string layer = ssm_cfg.string_or("layer", "Mamba1");
  if (layer != "Mamba1") {
    json.fail(fmt::format("field \"ssm_cfg.layer\" is {}: only \"Mamba1\" is supported", quote(layer)));
  }
  config.d_state = to_int(ssm_cfg.integer_or("d_state", 16, 1, kMaxState));
  config.d_conv = to_int(ssm_cfg.integer_or("d_conv", 4, 1, kMaxKernel));
  config.d_inner = to_int(ssm_cfg.integer_or("expand", 2, 1, kMaxExpand) * config.d_model);
  config.dt_rank = read_dt_rank(ssm_cfg, "dt_rank", config.d_model);
  config.bias = ssm_cfg.boolean_or("bias", false);
  config.conv_bias = ssm_cfg.boolean_or("conv_bias", true);
  config.dt_init_floor = ssm_cfg.number_or("dt_init_floor", 1e-4, 0, 1e6);
  read_dt_init(ssm_cfg, "dt_", "dt_init", config);
  config.eos_token_ids = {0};  // <|endoftext|> of GPT-NeoX's tokenizer, with which all of these were trained
  config.bos_token_id = 0;
  return config;
}

}  // namespace

int64_t Config::parameter_count() const {
  const int64_t inner = d_inner;
  int64_t layer = inner * 2 * d_model + inner * d_model;  // in_proj, out_proj
  layer += bias ? 2 * inner + d_model : 0;
  layer += inner * d_conv + (conv_bias ? inner : 0);                   // conv1d
  layer += inner * (dt_rank + 2 * d_state) + inner * dt_rank + inner;  // x_proj, dt_proj
  layer += inner * d_state + inner + d_model;                          // A_log, D, norm
  return layer * n_layer + int64_t{vocab_size} * d_model * (tie_embeddings ? 1 : 2) + d_model;
}

void fill_derived(Config& config) {
  if (config.d_inner == 0) {
    config.d_inner = 2 * config.d_model;
  }
  if (config.dt_rank == 0) {
    config.dt_rank = (config.d_model + 15) / 16;
  }
}

Config parse_config(const Json& json, const std::string& file) {
  const JsonObject object(json, file);
  if (object.has("model_type")) {
    const std::string type = object.string("model_type");
    if (type != "mamba") {
      object.fail(fmt::format("model type {} is not supported: this program runs \"mamba\" (Mamba-1)", quote(type)));
    }
    return parse_hugging_face(object);
  }
  if (object.has("d_model")) {
    return parse_state_spaces(object);
  }
  object.fail("is no Mamba configuration: it has neither \"model_type\" nor \"d_model\"");
}

Config read_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  Config config = parse_config(read_json(path), path.string());
  const std::filesystem::path generation = directory / "generation_config.json";
  if (std::filesystem::exists(generation)) {
    const Json json = read_json(generation);
    const JsonObject object(json, generation.string());
    if (object.has("eos_token_id")) {
      config.eos_token_ids = read_token_ids(object, "eos_token_id");
    }
  }
  return config;
}

Json hugging_face_config(const Config& config, const std::string& torch_dtype) {
  Json json = {
      {"architectures", {"MambaForCausalLM"}},
      {"model_type", "mamba"},
      {"vocab_size", config.vocab_size},
      {"hidden_size", config.d_model},
      {"num_hidden_layers", config.n_layer},
      {"n_layer", config.n_layer},
      {"state_size", config.d_state},
      {"conv_kernel", config.d_conv},
      {"intermediate_size", config.d_inner},
      {"time_step_rank", config.dt_rank},
      {"tie_word_embeddings", config.tie_embeddings},
      {"use_bias", config.bias},
      {"use_conv_bias", config.conv_bias},
      {"residual_in_fp32", config.residual_in_fp32},
      {"layer_norm_epsilon", config.norm_eps},
      {"hidden_act", "silu"},
      {"initializer_range", config.initializer_range},
      // Of initialisation alone, which is over: transformers 5 divides the weights it has loaded once more when true.
      {"rescale_prenorm_residual", false},
      {"time_step_min", config.dt_min},
      {"time_step_max", config.dt_max},
      {"time_step_floor", config.dt_init_floor},
      {"time_step_scale", config.dt_scale},
      {"time_step_init_scheme", config.dt_init_constant ? "constant" : "random"},
      {"torch_dtype", torch_dtype},
      {"use_cache", true},
  };
  if (config.quantization) {
    // Twice, as mlx-lm does: the hub reads the second.
    json["quantization"] = quantization_json(*config.quantization);
    json["quantization_config"] = json["quantization"];
  }
  if (config.d_inner % config.d_model == 0) {
    json["expand"] = config.d_inner / config.d_model;
  }
  if (!config.eos_token_ids.empty()) {
    json["eos_token_id"] =
        config.eos_token_ids.size() == 1 ? Json(config.eos_token_ids.front()) : Json(config.eos_token_ids);
  }
  if (config.bos_token_id >= 0) {
    json["bos_token_id"] = config.bos_token_id;
  }
  if (config.pad_token_id >= 0) {
    json["pad_token_id"] = config.pad_token_id;
  }
  return json;
}

}  // namespace mamba::models
