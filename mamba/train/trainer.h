// The training loop: batches in, steps, evaluation, checkpoints.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "mamba/models/mamba.h"
#include "mamba/train/data/batches.h"
#include "mamba/train/objective.h"
#include "mamba/train/optimizer.h"
#include "mamba/train/run_folder.h"
#include "mamba/train/sender.h"
#include "mamba/train/settings.h"
#include "mamba/train/trainable.h"

namespace mamba::train {

// A line of metrics.jsonl. Steps count from 0; `loss` is the mean over the step's targets before its update.
struct StepReport {
  int64_t step = 0;
  double loss = 0;
  double lr = 0;
  double grad_norm = 0;  // before clipping
  double epoch = 0;      // after the step
  double tokens_per_second = 0;
  double peak_memory_mb = 0;
  std::optional<double> eval_loss;  // after the step

  Json to_json() const;
};

// What the program around the loop contributes.
struct Hooks {
  // Writes the model's own files into a checkpoint's folder, from the trained arrays in float32. The model holds the
  // same numbers in the dtype it computes in, here and in on_checkpoint(): averages where the settings ask for them.
  std::function<void(const std::filesystem::path& directory, const nn::ParameterMap& parameters)> save_model;
  std::function<void(const StepReport& report)> on_step;  // may be empty
  std::function<bool()> should_stop;                      // asked after each step; may be empty
  std::function<void()> on_checkpoint;                    // after each save; may be empty
  // Before a run ends since its weights are no good ones: the newest checkpoint that has good ones, an earlier one than
  // was saved last. May be empty.
  std::function<void(const std::filesystem::path& good)> on_step_back;
};

// Throws UsageError for a quantised model: steps are smaller than what its codes tell apart.
void check_trainable(const models::MambaLM& model);

enum class Outcome { kFinished, kStopped };

class Trainer {
 public:
  // `model` holds the arrays of `trainable`, in float32; it must outlive the trainer. `directory` is the checkpoint to
  // go on from: the model's arrays must be that checkpoint's.
  Trainer(models::MambaLM& model, Trainable trainable, Batches batches, std::optional<Windows> held_out,
          const Settings& settings, RunFolder& folder, Hooks hooks,
          const std::optional<std::filesystem::path>& directory = std::nullopt);

  // Runs to the last step, or until should_stop(). Saves every save_every steps, whenever the held-out loss is the
  // lowest so far, at the end, and when it stops. Throws Error, having saved nothing, when a loss or gradients are no
  // longer finite: `last` then names the newest checkpoint from before the weights that gave them. Throws Error when a
  // checkpoint or a line of metrics cannot be written.
  Outcome run();

  int64_t step() const { return step_; }

 private:
  struct Work {
    double loss;
    double grad_norm;
    int64_t tokens;
  };

  // What a step computes, as a graph; of several parts the first one's.
  struct Prepared {
    int64_t step;
    std::vector<Batch> parts = {};
    double divisor = 1;
    int64_t tokens = 0;
    std::optional<Gradients> first = {};
  };

  Prepared prepare(int64_t step) const;
  Gradients gradients_of(const Prepared& step, size_t part) const;
  Work take_step(double learning_rate);
  double evaluate();
  void save(bool is_best);
  [[noreturn]] void fail_not_finite(const std::string& what, bool weights_are_sound);

  Sender sender_ = {};
  std::optional<Prepared> prepared_ = {};  // the next step, on GPUs
  models::MambaLM& model_;
  Trainable trainable_;
  Batches batches_;
  std::optional<Windows> held_out_;
  Settings settings_;
  RunFolder& folder_;
  Hooks hooks_;
  Optimizer optimizer_;
  int64_t step_ = 0;
  std::optional<double> best_loss_;
  std::optional<int64_t> best_step_;
  double seconds_ = 0;
  std::optional<models::State> carried_;
};

}  // namespace mamba::train
