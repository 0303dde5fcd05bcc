#include "mamba/generate/adapter.h"

#include "mamba/base/error.h"
#include "mamba/hub/hub.h"
#include "mamba/io/checkpoint.h"
#include "mamba/models/checkpoint.h"
#include "mamba/models/peft.h"

namespace mamba::generate {

namespace fs = std::filesystem;
namespace mx = mlx::core;

namespace {

std::vector<hub::Wanted> adapter_files() {
  return {{.any_of = {models::kAdapterConfig}}, {.any_of = models::adapter_file_names()}};
}

}  // namespace

Adapter resolve_adapter(const std::string& name, const LoadOptions& options) {
  std::error_code ignored;
  fs::path directory = name;
  if (!fs::is_directory(directory, ignored)) {
    if (fs::exists(directory, ignored)) {
      throw UsageError(
          fmt::format("{}: is a file; name the folder that holds it with its {}", name, models::kAdapterConfig));
    }
    const bool path_like = name.empty() || name.front() == '.' || name.front() == '/' || name.front() == '~';
    if (path_like || !hub::looks_like_repo_id(name)) {
      throw Error(fmt::format("adapter {}: there is no such folder, and it is no name of a hub repository (owner/name)",
                              quote(name)));
    }
    directory =
        hub::download_files(name, "main", adapter_files(), hub::Options::from_environment(), options.progress).folder;
  }
  models::LoraConfig config = models::read_adapter_config(directory);
  return {.directory = std::move(directory), .config = std::move(config)};
}

void merge(const Resolved& source, const Adapter& adapter, const fs::path& directory, std::optional<mx::Dtype> dtype,
           const ProgressFn& progress) {
  models::MambaLM model(models::read_config(source.directory));
  models::load_parameters(*io::open_checkpoint(source.directory), model);
  models::load_adapter(model, adapter.directory);
  models::merge_lora(model, dtype);
  save_converted(model, dtype.value_or(model.dtype()), dtype, source, directory, progress);
}

}  // namespace mamba::generate
