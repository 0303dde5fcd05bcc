// A training run from its options to its end: what `train` and `finetune` share.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/mlx-mamba/training_options.h"
#include "mamba/models/mamba.h"
#include "mamba/text/tokenizer.h"
#include "mamba/train/run_folder.h"
#include "mamba/train/settings.h"
#include "mamba/train/trainable.h"

namespace mamba::cli {

// What a run is, before its model is there.
struct RunPlan {
  std::filesystem::path path;  // --out
  std::string command;
  train::Settings settings;
  std::vector<std::string> data;
  std::vector<std::string> eval_data;
  double eval_fraction = -1;  // -1: as it suits the data
  double bpe_dropout = 0;
  int segmentations = 1;
  std::string sample_prompt;
  std::optional<train::RunFolder> folder;           // of a run that is resumed
  std::optional<std::filesystem::path> checkpoint;  // to go on from; none before the first
  Json config = Json::object();                     // what the command adds: "model", "lora", ...
};

// Of a new run, or of the one that --resume names. Throws UsageError for options that do not fit together.
RunPlan plan_run(const TrainingOptions& options, const std::string& command, const train::Settings& defaults);

// The tokenizer.json that --tokenizer names, itself or its folder. Throws UsageError when there is none.
std::filesystem::path given_tokenizer(const std::filesystem::path& path);

// The tokenizer of a resumed run; empty when it has none.
std::filesystem::path run_tokenizer(const RunPlan& plan);

// What is trained, and how it is kept.
struct Training {
  models::MambaLM& model;
  train::Trainable trainable;
  // Writes the model's own files, config.json last, into a checkpoint's folder.
  std::function<void(const std::filesystem::path& directory, const nn::ParameterMap& parameters)> save;
  std::function<void()> after_save;                                     // may be empty
  std::function<void(const std::filesystem::path& good)> on_step_back;  // as train::Hooks has it
  std::filesystem::path tokenizer;                                      // tokenizer.json; empty: data must be token ids
};

// Trains to the end or until a signal. Returns the exit code.
int execute(RunPlan& plan, Training training);

// All parameters of `model`, kept as a model in Hugging Face's layout. Refers to `plan` and `model`.
Training whole_model(const RunPlan& plan, models::MambaLM& model, std::filesystem::path tokenizer);

}  // namespace mamba::cli
