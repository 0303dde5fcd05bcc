#include "mamba/generate/load.h"

#include <mlx/utils.h>

#include <algorithm>

#include "mamba/base/file.h"
#include "mamba/base/warning.h"
#include "mamba/hub/hub.h"
#include "mamba/io/checkpoint.h"
#include "mamba/io/save.h"
#include "mamba/models/checkpoint.h"
#include "mamba/models/dequantize.h"
#include "mamba/models/large_pages.h"
#include "mamba/models/peft.h"
#include "mamba/models/registry.h"
#include "mamba/ops/dispatch.h"
#include "mamba/text/tokenizer_files.h"

namespace mamba::generate {

namespace fs = std::filesystem;
namespace mx = mlx::core;

namespace {

// The tokenizer that every state-spaces checkpoint was trained with; their repositories hold none.
constexpr const char* kNeoxRepository = "EleutherAI/gpt-neox-20b";

constexpr const char* kTokenizer = "tokenizer.json";

bool has_file(const hub::Snapshot& snapshot, const std::string& name) {
  return std::find(snapshot.files.begin(), snapshot.files.end(), name) != snapshot.files.end();
}

bool has_safetensors(const hub::Snapshot& snapshot) {
  return std::any_of(snapshot.files.begin(), snapshot.files.end(),
                     [](const std::string& name) { return name.ends_with(".safetensors"); });
}

// True for a folder, false for what may be the name of a repository; throws for what is neither.
bool is_folder(const std::string& name) {
  std::error_code ignored;
  if (fs::is_directory(name, ignored)) {
    return true;
  }
  if (fs::exists(name, ignored)) {
    throw UsageError(fmt::format("{}: is a file; name the folder that holds it with its config.json", name));
  }
  const bool path_like = name.empty() || name.front() == '.' || name.front() == '/' || name.front() == '~';
  if (path_like || !hub::looks_like_repo_id(name)) {
    throw Error(fmt::format("model {}: there is no such folder, and it is no name of a hub repository (owner/name)",
                            quote(name)));
  }
  return false;
}

Resolved resolve_folder(const fs::path& folder) {
  Resolved resolved{.directory = folder, .tokenizer = {}, .repository = {}, .commit = {}};
  if (fs::exists(folder / kTokenizer)) {
    resolved.tokenizer = folder / kTokenizer;
  }
  return resolved;
}

// The snapshot in a form that loads at once: itself, or its conversion from PyTorch's format, made on first use.
fs::path loadable_directory(const Resolved& source, const hub::Snapshot& snapshot, const ProgressFn& progress) {
  if (has_safetensors(snapshot)) {
    return snapshot.folder;
  }
  std::string folder_name = source.repository;
  for (size_t slash = folder_name.find('/'); slash != std::string::npos; slash = folder_name.find('/')) {
    folder_name.replace(slash, 1, "--");
  }
  const fs::path converted = cache_directory() / "converted" / folder_name / snapshot.commit;
  if (fs::exists(converted / "config.json")) {
    return converted;
  }
  try {
    convert(source, converted, {}, progress);
  } catch (const ParseError&) {
    throw;  // the checkpoint is at fault, not the place for its conversion
  } catch (const Error& e) {
    if (!fs::exists(snapshot.folder / "config.json")) {
      throw;
    }
    warn_once(fmt::format("the converted model could not be kept ({}); reading the PyTorch file instead", e.what()));
    return snapshot.folder;
  }
  return converted;
}

// The tokenizer of a repository that holds none; empty where none is known.
fs::path known_tokenizer(const std::string& repository, const hub::Options& options, const ProgressFn& progress) {
  if (!repository.starts_with("state-spaces/")) {
    return {};
  }
  return hub::download_files(kNeoxRepository, "main", hub::tokenizer_files(), options, progress).folder / kTokenizer;
}

Resolved resolve_repository(const std::string& name, const LoadOptions& options, bool with_tokenizer) {
  const hub::Options hub_options = hub::Options::from_environment();
  const hub::Snapshot snapshot =
      hub::download_files(name, options.revision, hub::model_files(), hub_options, options.progress);
  Resolved resolved{.directory = snapshot.folder, .tokenizer = {}, .repository = name, .commit = snapshot.commit};
  if (has_file(snapshot, kTokenizer)) {
    resolved.tokenizer = snapshot.folder / kTokenizer;
  } else if (with_tokenizer) {
    resolved.tokenizer = known_tokenizer(name, hub_options, options.progress);
  }
  resolved.directory = loadable_directory(resolved, snapshot, options.progress);
  return resolved;
}

void copy_whole(const fs::path& from, const fs::path& to) {
  std::error_code ignored;
  if (!fs::equivalent(from, to, ignored)) {
    write_file(to, read_file(from));
  }
}

}  // namespace

Resolved resolve_model(const std::string& name, const LoadOptions& options, bool with_tokenizer) {
  return is_folder(name) ? resolve_folder(name) : resolve_repository(name, options, with_tokenizer);
}

fs::path resolve_tokenizer(const std::string& name, const LoadOptions& options) {
  if (is_folder(name)) {
    return resolve_folder(name).tokenizer;
  }
  const hub::Options hub_options = hub::Options::from_environment();
  const auto own = hub::try_download(name, kTokenizer, options.revision, hub_options, options.progress);
  return own ? *own : known_tokenizer(name, hub_options, options.progress);
}

LoadedModel load(const std::string& name, const LoadOptions& options, bool with_tokenizer) {
  Resolved source = resolve_model(name, options, with_tokenizer);
  std::unique_ptr<text::Tokenizer> tokenizer;
  if (with_tokenizer && !source.tokenizer.empty()) {
    tokenizer = std::make_unique<text::Tokenizer>(text::Tokenizer::from_file(source.tokenizer));
  }
  models::MambaLM model = models::load_model(source.directory, options.dtype);
  if (options.large_pages && ops::on_cpu(mx::to_stream({}))) {
    models::move_to_large_pages(model);
  }
  if (options.adapter) {
    models::load_adapter(model, options.adapter->directory);
  }
  return {std::move(model), std::move(tokenizer), std::move(source)};
}

void convert(const Resolved& source, const fs::path& directory, std::optional<mx::Dtype> dtype,
             const ProgressFn& progress) {
  models::MambaLM model(models::read_config(source.directory));
  models::load_parameters(*io::open_checkpoint(source.directory), model);
  if (dtype && model.is_quantized()) {
    models::dequantize(model, *dtype);
  }
  save_converted(model, dtype.value_or(model.dtype()), dtype, source, directory, progress);
}

void save_converted(models::MambaLM& model, mx::Dtype weights, std::optional<mx::Dtype> dtype, const Resolved& source,
                    const fs::path& directory, const ProgressFn& progress) {
  make_directories(directory);
  io::save_checkpoint(directory, models::parameters_to_save(model, dtype), io::kDefaultShardBytes, io::kTorchFormat,
                      progress);
  if (!source.tokenizer.empty()) {
    text::copy_tokenizer_files(source.tokenizer, directory);
  }
  if (const fs::path generation = source.directory / "generation_config.json"; fs::exists(generation)) {
    copy_whole(generation, directory / "generation_config.json");
  }
  // Last: a reader takes a folder with a config.json for whole.
  write_file(directory / "config.json",
             json_text(models::hugging_face_config(model.config(), models::dtype_name(weights)), 2) + "\n");
}

}  // namespace mamba::generate
