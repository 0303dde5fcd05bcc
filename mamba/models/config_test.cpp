#include "mamba/models/config.h"

#include <gtest/gtest.h>

#include "mamba/base/error_testing.h"
#include "mamba/base/file.h"
#include "mamba/base/temporary_directory.h"

namespace mamba::models {
namespace {

Config parse(const std::string& text) {
  return parse_config(parse_json(text, "config.json"), "config.json");
}

std::string config_error(const std::string& text) {
  return message_of<ParseError>([&] { parse(text); });
}

TEST(Config, StateSpacesLayout) {
  const Config config = parse(R"({"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {}, "rms_norm": true,
      "residual_in_fp32": true, "fused_add_norm": true, "pad_vocab_size_multiple": 8})");
  EXPECT_EQ(config.vocab_size, 50280);
  EXPECT_EQ(config.d_inner, 1536);
  EXPECT_EQ(config.dt_rank, 48);
  EXPECT_EQ(config.d_state, 16);
  EXPECT_EQ(config.d_conv, 4);
  EXPECT_TRUE(config.tie_embeddings);
  EXPECT_TRUE(config.residual_in_fp32);
  EXPECT_EQ(config.parameter_count(), 129'135'360);  // what the paper's 130M is to the last one
  EXPECT_EQ(config.eos_token_ids, std::vector<int>{0});
}

TEST(Config, StateSpacesOptions) {
  const Config config = parse(R"({"d_model": 37, "n_layer": 2, "vocab_size": 100, "pad_vocab_size_multiple": 1,
      "tie_embeddings": false, "residual_in_fp32": false,
      "ssm_cfg": {"layer": "Mamba1", "d_state": 8, "d_conv": 2, "expand": 3, "dt_rank": 5, "bias": true, "conv_bias": false}})");
  EXPECT_EQ(config.vocab_size, 100);
  EXPECT_EQ(config.d_inner, 111);
  EXPECT_EQ(config.dt_rank, 5);
  EXPECT_EQ(config.d_state, 8);
  EXPECT_EQ(config.d_conv, 2);
  EXPECT_TRUE(config.bias);
  EXPECT_FALSE(config.conv_bias);
  EXPECT_FALSE(config.tie_embeddings);
  EXPECT_FALSE(config.residual_in_fp32);
}

TEST(Config, HuggingFaceRoundTrip) {
  Config config = parse(R"({"model_type": "mamba", "vocab_size": 64, "hidden_size": 45, "num_hidden_layers": 3,
      "state_size": 32, "conv_kernel": 2, "expand": 2, "intermediate_size": 90, "time_step_rank": 4,
      "tie_word_embeddings": false, "use_bias": true, "use_conv_bias": false, "layer_norm_epsilon": 1e-6,
      "residual_in_fp32": false, "eos_token_id": [0, 3], "bos_token_id": 1})");
  EXPECT_EQ(config.d_inner, 90);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int>{0, 3}));
  const Config again = parse_config(hugging_face_config(config, "float32"), "again");
  EXPECT_EQ(again.d_model, 45);
  EXPECT_EQ(again.n_layer, 3);
  EXPECT_EQ(again.d_inner, 90);
  EXPECT_EQ(again.dt_rank, 4);
  EXPECT_EQ(again.d_state, 32);
  EXPECT_EQ(again.d_conv, 2);
  EXPECT_TRUE(again.bias);
  EXPECT_FALSE(again.conv_bias);
  EXPECT_FALSE(again.tie_embeddings);
  EXPECT_FALSE(again.residual_in_fp32);
  EXPECT_DOUBLE_EQ(again.norm_eps, 1e-6);
  EXPECT_EQ(again.eos_token_ids, (std::vector<int>{0, 3}));
  EXPECT_EQ(again.bos_token_id, 1);
  EXPECT_EQ(hugging_face_config(config, "bfloat16")["torch_dtype"], "bfloat16");
  config.rescale_prenorm_residual = true;
  EXPECT_EQ(hugging_face_config(config, "float32")["rescale_prenorm_residual"], false);
}

TEST(Config, DtRankAuto) {
  EXPECT_EQ(parse(R"({"model_type": "mamba", "vocab_size": 64, "hidden_size": 33, "num_hidden_layers": 1,
      "time_step_rank": "auto"})")
                .dt_rank,
            3);
}

TEST(Config, RefusesWhatItCannotRun) {
  EXPECT_EQ(config_error(R"({"model_type": "llama"})"),
            "config.json: model type \"llama\" is not supported: this program runs \"mamba\" (Mamba-1)");
  EXPECT_EQ(config_error(R"({"a": 1})"),
            "config.json: is no Mamba configuration: it has neither \"model_type\" nor \"d_model\"");
  EXPECT_EQ(config_error(R"([])"), "config.json: must hold a JSON object");
  EXPECT_EQ(config_error(R"({"model_type": "mamba", "vocab_size": 64, "num_hidden_layers": 1})"),
            "config.json: field \"hidden_size\" is missing");
  EXPECT_NE(config_error(R"({"model_type": "mamba", "vocab_size": 64, "hidden_size": -4, "num_hidden_layers": 1})")
                .find("\"hidden_size\" must be an integer from 1"),
            std::string::npos);
  EXPECT_NE(config_error(R"({"model_type": "mamba", "vocab_size": 1e18, "hidden_size": 4, "num_hidden_layers": 1})")
                .find("\"vocab_size\" must be an integer"),
            std::string::npos);
  EXPECT_NE(config_error(R"({"model_type": "mamba", "vocab_size": 64, "hidden_size": 4, "num_hidden_layers": 1,
      "hidden_act": "gelu"})")
                .find("hidden_act"),
            std::string::npos);
  EXPECT_NE(config_error(R"({"model_type": "mamba", "vocab_size": 64, "hidden_size": 4, "num_hidden_layers": 1,
      "expand": 2, "intermediate_size": 9})")
                .find("intermediate_size"),
            std::string::npos);
  EXPECT_NE(config_error(R"({"d_model": 4, "n_layer": 1, "vocab_size": 8, "ssm_cfg": {"layer": "Mamba2"}})")
                .find("only \"Mamba1\" is supported"),
            std::string::npos);
  EXPECT_NE(config_error(R"({"d_model": 4, "n_layer": 1, "vocab_size": 8, "attn_layer_idx": [1]})").find("attention"),
            std::string::npos);
  EXPECT_NE(config_error(R"({"d_model": 4, "n_layer": 1, "vocab_size": 8, "rms_norm": false})").find("LayerNorm"),
            std::string::npos);
  EXPECT_NE(config_error(R"({"d_model": 4, "n_layer": 1, "vocab_size": 8, "ssm_cfg": {"dt_min": 1, "dt_max": 0.5}})")
                .find("larger than"),
            std::string::npos);
}

TEST(Config, GenerationConfigMayNameTheEndOfText) {
  const TemporaryDirectory folder;
  write_file(folder / "config.json", R"({"d_model": 4, "n_layer": 1, "vocab_size": 8})");
  EXPECT_EQ(read_config(folder.path()).eos_token_ids, std::vector<int>{0});
  write_file(folder / "generation_config.json", R"({"eos_token_id": 5})");
  EXPECT_EQ(read_config(folder.path()).eos_token_ids, std::vector<int>{5});
  EXPECT_THROW(read_config(folder / "absent"), Error);
}

}  // namespace
}  // namespace mamba::models
