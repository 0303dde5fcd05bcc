#include <charconv>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "apps/mlx-mamba/command.h"
#include "apps/mlx-mamba/console.h"
#include "apps/mlx-mamba/training_run.h"
#include "mamba/base/error.h"
#include "mamba/base/temporary_directory.h"
#include "mamba/models/initialize.h"
#include "mamba/models/registry.h"
#include "mamba/train/data/train_tokenizer.h"

namespace mamba::cli {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;

struct TrainArguments {
  TrainingOptions training;
  std::optional<std::string> init;
  std::optional<std::string> tokenizer;
  std::optional<int> d_model;
  std::optional<int> n_layer;
  std::optional<int> d_state;
  std::optional<int> d_conv;
  std::optional<int> expand;
  std::optional<int> vocab;

  bool gives_shape() const { return d_model || n_layer || d_state || d_conv || expand || vocab; }
};

constexpr int kVocabMultiple = 8;  // as the official implementation pads

constexpr std::string_view kLearnt = "train:";  // --tokenizer train:N

// `learnt_into`: where a tokenizer that is made now is put.
fs::path find_tokenizer(const TrainArguments& o, const RunPlan& plan, const fs::path& learnt_into) {
  if (o.tokenizer && o.tokenizer->starts_with(kLearnt)) {
    const std::string number = o.tokenizer->substr(kLearnt.size());
    int64_t size = 0;
    const auto [stop, error] = std::from_chars(number.data(), number.data() + number.size(), size);
    if (error != std::errc() || stop != number.data() + number.size()) {
      throw UsageError(
          fmt::format("--tokenizer {}: N must be the number of tokens, such as train:1024", quote(*o.tokenizer)));
    }
    train::train_tokenizer({plan.data.begin(), plan.data.end()}, size, learnt_into, progress_reporter());
    return learnt_into / "tokenizer.json";
  }
  if (o.tokenizer) {
    return given_tokenizer(*o.tokenizer);
  }
  if (o.init && fs::exists(fs::path(*o.init) / "tokenizer.json")) {
    return fs::path(*o.init) / "tokenizer.json";
  }
  return {};
}

models::Config new_config(const TrainArguments& o, const fs::path& tokenizer) {
  models::Config config{.d_model = o.d_model.value_or(256),
                        .n_layer = o.n_layer.value_or(8),
                        .d_state = o.d_state.value_or(16),
                        .d_conv = o.d_conv.value_or(4)};
  config.d_inner = config.d_model * o.expand.value_or(2);
  if (!tokenizer.empty()) {
    const text::Tokenizer read = text::Tokenizer::from_file(tokenizer);
    const int needed = read.max_id() + 1;
    config.vocab_size = o.vocab.value_or((needed + kVocabMultiple - 1) / kVocabMultiple * kVocabMultiple);
    if (config.vocab_size < needed) {
      throw UsageError(fmt::format("--vocab {} is less than the tokenizer's {} ids", config.vocab_size, needed));
    }
    if (const auto end = read.token_to_id("<|endoftext|>")) {
      config.eos_token_ids = {*end};
      config.bos_token_id = *end;
      config.pad_token_id = *end;
    }
  } else if (o.vocab) {
    config.vocab_size = *o.vocab;
  } else {
    throw UsageError(
        "the vocabulary is not known: give --tokenizer FILE, --tokenizer train:N, --init DIR, or --vocab N where the "
        "data is token ids");
  }
  models::fill_derived(config);
  return config;
}

models::MambaLM start_model(const RunPlan& plan, const TrainArguments& o, const fs::path& tokenizer) {
  if (plan.checkpoint) {
    return models::load_model(*plan.checkpoint, mx::float32);
  }
  const std::string init = plan.config.value("init", "");
  if (!init.empty()) {
    return models::load_model(init, mx::float32);
  }
  const Json& stored = plan.config.value("model", Json());
  models::MambaLM model(stored.is_object() ? models::parse_config(stored, (plan.path / "config.json").string())
                                           : new_config(o, tokenizer));
  models::initialize(model, plan.settings.seed);
  return model;
}

int run_train(const TrainArguments& o) {
  o.training.machine.prepare_machine();
  RunPlan plan = plan_run(o.training, "train", train::Settings());
  const TemporaryDirectory learnt;
  fs::path tokenizer;
  if (o.training.resume) {
    if (o.init || o.tokenizer || o.gives_shape()) {
      throw UsageError(
          "--resume: the run has its model and tokenizer: leave --init, --tokenizer and the model's shape "
          "out");
    }
    tokenizer = run_tokenizer(plan);
  } else {
    if (o.init && o.gives_shape()) {
      throw UsageError("--init brings the model's shape: leave --d-model and its like out");
    }
    tokenizer = find_tokenizer(o, plan, learnt.path());
    plan.config["init"] = o.init ? fs::absolute(*o.init).lexically_normal().string() : "";
  }
  models::MambaLM model = start_model(plan, o, tokenizer);
  plan.config["model"] = models::hugging_face_config(model.config(), "float32");
  return execute(plan, whole_model(plan, model, tokenizer));
}

std::function<int()> declare_train(OptionTable& table) {
  const auto o = std::make_shared<TrainArguments>();
  const auto size = [&](const char* name, const char* value_name, std::optional<int>* value, const char* help) {
    table.integer(
        name, value_name, [value](int64_t n) { *value = static_cast<int>(n); }, 1, 1 << 20, help);
  };
  o->training.declare_data(table);
  table.group("Model");
  table.text("--init", "DIR", &o->init, "begin with this checkpoint's weights, shape and tokenizer", Offer::kFolders);
  table.text("--tokenizer", "F", &o->tokenizer,
             "a tokenizer.json, or train:N for a byte-level BPE of N tokens made from --data", Offer::kFiles);
  size("--d-model", "N", &o->d_model, "width (default: 256)");
  size("--n-layer", "N", &o->n_layer, "blocks (default: 8)");
  size("--d-state", "N", &o->d_state, "states of a channel (default: 16)");
  size("--d-conv", "N", &o->d_conv, "taps of the convolution (default: 4)");
  size("--expand", "N", &o->expand, "channels, as a multiple of the width (default: 2)");
  size("--vocab", "N", &o->vocab, "rows of the embeddings (default: the tokenizer's, rounded up to 8)");
  o->training.declare_settings(table, {.lr = "0.001", .steps = "1000", .batch_size = "8"});
  o->training.declare_run(table);
  return [o] { return run_train(*o); };
}

}  // namespace

const Command kTrain = {"train", "Trains a model from scratch, or goes on with a checkpoint's weights.",
                        "Checkpoints in OUT/checkpoints/step-N are models in Hugging Face's layout; OUT/last and "
                        "OUT/best name two of them. "
                        "Ctrl-C saves and stops; --resume goes on as if nothing had happened.",
                        "  mlx-mamba train --data shakespeare.txt --tokenizer train:1024 --out run\n"
                        "  mlx-mamba train --out run --resume\n"
                        "  mlx-mamba generate --model run/best --prompt \"ROMEO:\"\n",
                        declare_train};

}  // namespace mamba::cli
