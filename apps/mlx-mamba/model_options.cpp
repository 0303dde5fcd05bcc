#include "apps/mlx-mamba/model_options.h"

#include <mlx/device.h>

#include "apps/mlx-mamba/console.h"
#include "apps/mlx-mamba/shipped_model.h"
#include "mamba/base/error.h"
#include "mamba/base/threads.h"
#include "mamba/base/warning.h"
#include "mamba/generate/adapter.h"
#include "mamba/models/registry.h"

namespace mamba::cli {

namespace mx = mlx::core;

void ModelOptions::declare_source(OptionTable& options) {
  options.text("--model", "NAME", &model, "folder, or name on the hub (default: the model that ships with the program)",
               Offer::kFolders);
  options.text("--revision", "R", &revision, "branch, tag or commit of a model on the hub (default: main)");
}

void ModelOptions::declare_adapter(OptionTable& options) {
  options.text("--adapter", "NAME", &adapter,
               "LoRA adapter in PEFT's format: folder, or name on the hub (default model: the one it was made for)",
               Offer::kFolders);
}

void ModelOptions::declare_dtype(OptionTable& options) {
  options.choice("--dtype", "TYPE", {"float32", "bfloat16", "float16"}, &dtype,
                 "float32, bfloat16 or float16 (default: what the model is stored in)");
}

void ModelOptions::declare_machine(OptionTable& options) {
  options.choice("--device", "DEVICE", {"cpu", "gpu"}, &device, "cpu or gpu (default: gpu where MLX has one)");
  options.integer(
      "--threads", "N", [this](int64_t n) { threads = static_cast<int>(n); }, 1, 4096,
      "processor threads (default: one for each processor)");
}

std::optional<generate::Adapter> ModelOptions::find_adapter() const {
  if (!adapter) {
    return std::nullopt;
  }
  if (adapter->empty()) {
    throw UsageError("--adapter must not be empty: give a folder or the name of a repository");
  }
  return generate::resolve_adapter(*adapter, load_options());
}

std::string ModelOptions::name(const std::optional<generate::Adapter>& for_adapter) const {
  if (!model && for_adapter) {
    if (for_adapter->config.base_model.empty()) {
      throw UsageError(
          fmt::format("the adapter {} does not say which model it was made for: give --model", quote(*adapter, 200)));
    }
    return for_adapter->config.base_model;
  }
  if (!model) {
    return shipped_model().string();
  }
  if (model->empty()) {
    throw UsageError("--model must not be empty: give a folder or a name such as state-spaces/mamba-130m");
  }
  return *model;
}

generate::LoadOptions ModelOptions::load_options(const std::optional<generate::Adapter>& for_adapter) const {
  generate::LoadOptions options;
  options.adapter = for_adapter;
  if (!model && for_adapter && !for_adapter->config.base_revision.empty()) {
    options.revision = for_adapter->config.base_revision;
  }
  if (dtype) {
    options.dtype = models::parse_dtype(*dtype);
  }
  if (revision) {
    if (revision->empty()) {
      throw UsageError("--revision must not be empty: give a branch, tag or commit");
    }
    options.revision = *revision;
  }
  options.progress = progress_reporter();
  return options;
}

generate::Resolved ModelOptions::resolve(const std::optional<generate::Adapter>& for_adapter) const {
  return generate::resolve_model(name(for_adapter), load_options(for_adapter));
}

void ModelOptions::prepare_machine() const {
  if (threads > 0) {
    set_num_threads(threads);
  }
  if (device) {
    const mx::Device wanted = *device == "gpu" ? mx::Device::gpu : mx::Device::cpu;
    check(mx::is_available(wanted),
          "--device {}: MLX finds no GPU here; leave the option out, or build with a MLX that has one "
          "(scripts/bootstrap --cuda on Linux)",
          *device);
    mx::set_default_device(wanted);
  }
}

generate::LoadedModel ModelOptions::load(TokenizerIs tokenizer, WeightsAre weights) const {
  prepare_machine();
  const std::optional<generate::Adapter> found = find_adapter();
  const std::string source = name(found);
  generate::LoadOptions options = load_options(found);
  options.large_pages = weights == WeightsAre::kReadOften;
  if (tokenizer != TokenizerIs::kWanted) {
    return generate::load(source, options, tokenizer == TokenizerIs::kNeeded);
  }
  std::string reason;
  try {
    return generate::load(source, options);
  } catch (const Error& e) {
    reason = e.what();
  }
  generate::LoadedModel loaded = generate::load(source, options, false);  // throws when it was not the tokenizer
  warn_once(fmt::format("going on without a tokenizer, so without text: {}", reason));
  return loaded;
}

}  // namespace mamba::cli
