#include "mamba/train/checkpoint.h"

#include <string>

#include "mamba/base/error.h"
#include "mamba/base/file.h"
#include "mamba/base/json.h"
#include "mamba/io/safetensors.h"
#include "mamba/io/save.h"

namespace mamba::train {

namespace fs = std::filesystem;

namespace {

constexpr const char* kTrainer = "trainer.json";
constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kCarried = "carried_state.safetensors";

}  // namespace

void save_trainer_state(const fs::path& directory, const TrainerState& state) {
  io::save_safetensors(directory / kOptimizer, io::to_save(state.moments));
  if (state.carried) {
    io::save_safetensors(directory / kCarried, io::to_save(state.carried->named_arrays()));
  }
  Json json = {{"step", state.step}, {"seconds", state.seconds}, {"carried_state", state.carried.has_value()}};
  if (state.best_loss && state.best_step) {
    json["best_loss"] = *state.best_loss;
    json["best_step"] = *state.best_step;
  }
  write_file(directory / kTrainer, json_text(json, 2) + "\n");
}

TrainerState load_trainer_state(const fs::path& directory) {
  const fs::path file = directory / kTrainer;
  const Json json = read_json(file);
  const JsonObject object(json, file.string());
  TrainerState state;
  state.step = object.integer("step", 0, INT64_MAX);
  state.seconds = object.number_or("seconds", 0, 0, 1e18);
  if (object.has("best_loss")) {
    state.best_loss = object.number_or("best_loss", 0, -1e30, 1e30);
    state.best_step = object.integer("best_step", 0, INT64_MAX);
  }
  const auto optimizer = io::open_safetensors(directory / kOptimizer);
  for (const std::string& name : optimizer->names()) {
    state.moments.insert_or_assign(name, optimizer->load(name));
  }
  if (object.boolean_or("carried_state", false)) {
    const auto carried = io::open_safetensors(directory / kCarried);
    state.carried.emplace();
    for (size_t i = 0; carried->has(models::State::array_name(i, "ssm")); ++i) {
      state.carried->layers.push_back(
          {carried->load(models::State::array_name(i, "conv")), carried->load(models::State::array_name(i, "ssm"))});
    }
  }
  return state;
}

}  // namespace mamba::train
