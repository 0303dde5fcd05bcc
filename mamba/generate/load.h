// A model by name: a folder, a repository on the hub, or the one that ships with the program.
#pragma once

#include <mlx/dtype.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "mamba/base/progress.h"
#include "mamba/models/lora.h"
#include "mamba/models/mamba.h"
#include "mamba/text/tokenizer.h"

namespace mamba::generate {

// A PEFT adapter and what its configuration says.
struct Adapter {
  std::filesystem::path directory;
  models::LoraConfig config;
};

struct LoadOptions {
  std::optional<mlx::core::Dtype> dtype;  // the stored one by default
  std::string revision = "main";          // of a hub repository: branch, tag or commit
  std::optional<Adapter> adapter;         // put in front of the model's weights: generate/adapter.h
  // On CPUs, matrices of floats are copied out of mapped files (models/large_pages.h): quicker for those who read them
  // over and over, a waste for those who only look.
  bool large_pages = true;
  ProgressFn progress;  // downloads and conversion
};

// Where a name leads before anything is loaded.
struct Resolved {
  std::filesystem::path directory;  // holds config.json and weights
  std::filesystem::path tokenizer;  // tokenizer.json; empty when there is none
  std::string repository;           // "state-spaces/mamba-130m"; empty for a folder
  std::string commit;               // of the repository
};

struct LoadedModel {
  models::MambaLM model;
  std::unique_ptr<text::Tokenizer> tokenizer;  // null when the model has none
  Resolved source;
};

// `name`: an existing folder; else "owner/name" on the hub, downloaded into Hugging Face's cache unless it is there.
// PyTorch checkpoints from the hub are converted once and kept, in `$MLX_MAMBA_CACHE` or `~/.cache/mlx-mamba`
// (XDG_CACHE_HOME is respected); a repository of state-spaces without a tokenizer gets that of EleutherAI/gpt-neox-20b.
// Throws Error saying what was looked for, and where.
// Without `with_tokenizer` none is looked for.
Resolved resolve_model(const std::string& name, const LoadOptions& options = {}, bool with_tokenizer = true);

// The tokenizer.json that resolve_model() would find, without fetching or converting the model; empty when there is
// none.
std::filesystem::path resolve_tokenizer(const std::string& name, const LoadOptions& options = {});

// resolve_model, then weights, the adapter if one is given, and (unless `with_tokenizer` is false) tokenizer.
LoadedModel load(const std::string& name, const LoadOptions& options = {}, bool with_tokenizer = true);

// Copies `source`'s model in Hugging Face's layout with its tokenizer files into `directory`, in `dtype` if given.
// A quantised model stays quantised without `dtype`, and with it becomes floats.
// Nothing is left half-written where a reader would take it for whole: config.json comes last.
void convert(const Resolved& source, const std::filesystem::path& directory, std::optional<mlx::core::Dtype> dtype = {},
             const ProgressFn& progress = {});

// What convert() writes, of a model that is in memory: `model` in `dtype` if given, with tokenizer and generation
// settings of `source`. `weights`: what config.json calls the model's dtype.
void save_converted(models::MambaLM& model, mlx::core::Dtype weights, std::optional<mlx::core::Dtype> dtype,
                    const Resolved& source, const std::filesystem::path& directory, const ProgressFn& progress = {});

}  // namespace mamba::generate
