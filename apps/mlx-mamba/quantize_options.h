// Quantising on the fly: the options of the commands that run a model.
#pragma once

#include <optional>
#include <string>

#include "apps/mlx-mamba/model_options.h"
#include "apps/mlx-mamba/option_table.h"
#include "mamba/models/mamba.h"
#include "mamba/quant/quantize.h"

namespace mamba::cli {

// --group-size and --keep.
void declare_grouping(OptionTable& options, std::optional<std::string>* group_size, std::optional<std::string>* keep);
// Their values, or the defaults of quant::Settings. Throws UsageError for an empty --keep.
quant::Settings quantize_settings(const std::string& bits, const std::optional<std::string>& group_size,
                                  const std::optional<std::string>& keep);

struct QuantizeOptions {
  std::optional<std::string> bits;
  std::optional<std::string> group_size;
  std::optional<std::string> keep;

  void declare(OptionTable& options);  // --quantize, --group-size, --keep

  // Throws UsageError where --group-size or --keep came without --quantize.
  void check() const;
  // Floats that are quantised are read once.
  ModelOptions::WeightsAre weights() const {
    return bits ? ModelOptions::WeightsAre::kLookedAt : ModelOptions::WeightsAre::kReadOften;
  }
  // Quantises `model` if it was asked for. Returns one line that says what was done; empty when nothing.
  std::string apply(models::MambaLM& model) const;
};

}  // namespace mamba::cli
