// Adapters by name, and folding one into a checkpoint.
#pragma once

#include <filesystem>
#include <string>

#include "mamba/generate/load.h"
#include "mamba/models/lora.h"

namespace mamba::generate {

// `name`: an existing folder; else "owner/name" on the hub, downloaded into Hugging Face's cache unless it is there.
// Throws Error saying what was looked for, and where.
Adapter resolve_adapter(const std::string& name, const LoadOptions& options = {});

// The model of `source` with the adapter folded in, as convert() writes models. The sums of weights and adapter are
// float32, rounded once to `dtype`, by default the model's own.
void merge(const Resolved& source, const Adapter& adapter, const std::filesystem::path& directory,
           std::optional<mlx::core::Dtype> dtype = {}, const ProgressFn& progress = {});

}  // namespace mamba::generate
