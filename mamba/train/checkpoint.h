// What a checkpoint of a run holds beside the model: everything that the next step depends on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "mamba/models/state.h"
#include "mamba/nn/parameters.h"

namespace mamba::train {

struct TrainerState {
  int64_t step = 0;  // steps done; the place in the data follows from it
  std::optional<double> best_loss;
  std::optional<int64_t> best_step;
  double seconds = 0;  // spent in steps
  nn::ParameterMap moments;
  std::optional<models::State> carried;  // with carry_state: what each row's next window starts from
};

// trainer.json, optimizer.safetensors and, where a state is carried, carried_state.safetensors.
void save_trainer_state(const std::filesystem::path& directory, const TrainerState& state);

// Throws Error or ParseError naming file and reason.
TrainerState load_trainer_state(const std::filesystem::path& directory);

}  // namespace mamba::train
