// Which model, in which precision, on what: the options that commands share.
#pragma once

#include <optional>
#include <string>

#include "apps/mlx-mamba/option_table.h"
#include "mamba/generate/load.h"

namespace mamba::cli {

struct ModelOptions {
  std::optional<std::string> model;
  std::optional<std::string> revision;
  std::optional<std::string> adapter;
  std::optional<std::string> dtype;
  std::optional<std::string> device;
  int threads = 0;

  void declare_source(OptionTable& options);   // --model, --revision
  void declare_adapter(OptionTable& options);  // --adapter
  void declare_dtype(OptionTable& options);    // --dtype
  void declare_machine(OptionTable& options);  // --device, --threads

  // The adapter that was asked for, found and its configuration read; nothing when none was.
  std::optional<generate::Adapter> find_adapter() const;

  // Of the model: the one given, else the one that `adapter` was made for, else the shipped one.
  std::string name(const std::optional<generate::Adapter>& adapter = {}) const;
  generate::LoadOptions load_options(const std::optional<generate::Adapter>& adapter = {}) const;
  generate::Resolved resolve(const std::optional<generate::Adapter>& adapter = {}) const;

  // Chooses device and threads. Throws Error for a device that this machine or build lacks.
  void prepare_machine() const;

  // prepare_machine(), then the model. Where the tokenizer is only wanted, not needed, one that cannot be had is a
  // warning.
  enum class TokenizerIs { kNeeded, kWanted, kUnwanted };
  enum class WeightsAre { kReadOften, kLookedAt };  // generate::LoadOptions::large_pages
  generate::LoadedModel load(TokenizerIs tokenizer, WeightsAre weights = WeightsAre::kReadOften) const;
};

}  // namespace mamba::cli
