// The options that `train` and `finetune` share.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "apps/mlx-mamba/model_options.h"
#include "apps/mlx-mamba/option_table.h"
#include "mamba/base/json.h"
#include "mamba/train/settings.h"

namespace mamba::cli {

struct TrainingOptions {
  std::vector<std::string> data;
  std::vector<std::string> eval_data;
  std::optional<double> eval_fraction;
  std::optional<double> bpe_dropout;
  std::optional<int> segmentations;
  std::optional<std::string> out;
  bool resume = false;
  std::optional<std::string> sample_prompt;
  ModelOptions machine;         // --device and --threads
  Json given = Json::object();  // settings that were given, under their names in train/settings.h

  void declare_data(OptionTable& table);
  // What --help calls the defaults that differ between commands.
  struct Defaults {
    std::string lr;
    std::string steps;
    std::string batch_size;
  };
  void declare_settings(OptionTable& table, const Defaults& defaults);
  void declare_run(OptionTable& table);
  void declare_noise(OptionTable& table);

  std::filesystem::path run_path() const;  // --out; throws UsageError without

  // `defaults` with what was given. Throws UsageError for what makes no sense.
  train::Settings settings(const train::Settings& defaults) const;

  // A resumed run's settings: `stored` with what may change. Throws UsageError for what may not.
  train::Settings resumed(const train::Settings& stored) const;
};

}  // namespace mamba::cli
