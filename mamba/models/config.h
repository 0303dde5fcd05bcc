// What a checkpoint's config.json says, whichever of the two layouts it has.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "mamba/base/json.h"
#include "mamba/models/quantization.h"

namespace mamba::models {

// Symbols are those of the Mamba paper (Gu & Dao 2023, section 3) and of the official implementation.
struct Config {
  int vocab_size = 0;  // rows of the embedding, padding included
  int d_model = 0;     // hidden_size
  int n_layer = 0;     // num_hidden_layers
  int d_state = 16;    // N, state_size
  int d_conv = 4;      // K, conv_kernel
  int d_inner = 0;     // D = expand * d_model, intermediate_size
  int dt_rank = 0;     // R, time_step_rank: ceil(d_model / 16) by default

  bool tie_embeddings = true;
  bool bias = false;  // in_proj and out_proj
  bool conv_bias = true;
  bool residual_in_fp32 = true;  // the residual stream stays float32 whatever the weights' dtype
  double norm_eps = 1e-5;

  // Initialisation, section 3.6 and the official implementation's defaults.
  double dt_min = 0.001;
  double dt_max = 0.1;
  double dt_init_floor = 1e-4;
  double dt_scale = 1.0;
  bool dt_init_constant = false;  // dt_proj.weight constant instead of uniform
  double initializer_range = 0.02;
  bool rescale_prenorm_residual = true;  // out_proj / sqrt(n_layer)

  std::optional<QuantizationConfig> quantization = {};  // none: all weights are floats

  std::vector<int> eos_token_ids;  // empty: generation stops at its length alone
  int bos_token_id = -1;           // -1: none
  int pad_token_id = -1;

  // Weights in one checkpoint, for reports: tied embeddings count once.
  int64_t parameter_count() const;
};

// d_inner and dt_rank where they are 0: the official defaults.
void fill_derived(Config& config);

// Reads `<directory>/config.json` (and generation_config.json's eos_token_id where there is one). Layouts: Hugging
// Face (`"model_type": "mamba"`) and state-spaces (`d_model`, `n_layer`, `ssm_cfg`, ...). Throws ParseError that names
// the field for values missing, absurd or contradictory, for model types other than mamba, and for state-spaces
// configurations with other layers (Mamba-2, attention).
Config read_config(const std::filesystem::path& directory);

// The same from parsed JSON; `file` is for messages.
Config parse_config(const Json& json, const std::string& file);

// Hugging Face's layout, which transformers opens. `torch_dtype`: "float32", "bfloat16" or "float16".
Json hugging_face_config(const Config& config, const std::string& torch_dtype);

}  // namespace mamba::models
