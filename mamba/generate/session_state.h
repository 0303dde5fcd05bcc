// Where a generation stands, as a value and as a file: what is needed to go on as if it had never stopped.
#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <filesystem>
#include <vector>

#include "mamba/models/mamba.h"

namespace mamba::generate {

struct SessionState {
  models::State state;           // one sequence
  mlx::core::array next_logits;  // (vocab) float32: after the last token
  std::vector<int32_t> history;  // every token so far, for the repetition penalty
};

// A safetensors file with the model's sizes in its metadata. Written whole or not at all.
void save_session(const std::filesystem::path& path, const SessionState& session, const models::Config& config);

// Throws Error when the file is no session or comes from a model of other sizes, naming both.
SessionState load_session(const std::filesystem::path& path, const models::MambaLM& model);

}  // namespace mamba::generate
