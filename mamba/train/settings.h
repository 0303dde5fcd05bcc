// What decides a run's numbers: everything but the data, the model and the machine.
#pragma once

#include <mlx/dtype.h>

#include <cstdint>
#include <optional>
#include <string>

#include "mamba/base/json.h"
#include "mamba/train/data/batches.h"
#include "mamba/train/optimizer.h"
#include "mamba/train/schedule.h"

namespace mamba::train {

struct Settings {
  int64_t seq_len = 512;     // L: tokens of a window
  int64_t batch_size = 8;    // B: windows that are worked on at once
  int64_t grad_accum = 1;    // G: batches whose gradients make one step
  int64_t steps = 1000;      // of the whole run
  bool shuffle = true;       // a new order each epoch
  bool carry_state = false;  // each row goes on with the state that its last window left
  // Where text is cut in several ways: part of a batch's rows that are cut as in use, none for as they come, and part
  // of the run, at its end, in which all are.
  std::optional<double> plain_share;
  double plain_end = 0;

  double lr = 1e-3;  // the peak
  std::string schedule = "cosine";
  int64_t warmup = -1;       // steps; -1: a twentieth of the run, 500 at most
  double min_lr_ratio = 0;   // part of the peak that is left at the end
  double decay_ratio = 0.2;  // wsd: part of the run in which the rate falls
  double weight_decay = 0.1;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double grad_clip = 1;  // largest norm of all gradients together; 0: no limit

  double dropout = 0;  // part of the embeddings and of each block's output that is left out
  // Decay of an average of the parameters over the steps, which is what is evaluated and saved; 0: none is kept.
  double average = 0;

  std::string dtype = "float32";  // of large weights and activations: float32 or bfloat16
  bool recompute = false;         // activations inside a block are computed again instead of kept
  uint64_t seed = 0;

  int64_t eval_every = 0;      // steps; 0: at the end alone
  int64_t eval_windows = 256;  // held-out windows that are looked at, at most
  int64_t save_every = 0;      // steps; 0: at the end alone
  int64_t keep = 2;            // checkpoints, beside the best

  // Throws UsageError that names the option for values that make no sense.
  void check_sense() const;

  Schedule learning_rates() const;
  BatchOptions batches() const;
  OptimizerOptions optimizer() const;

  // Under the names above. from_json() leaves absent ones at their defaults; throws ParseError naming `file`.
  Json to_json() const;
  static Settings from_json(const Json& json, const std::string& file);
};

}  // namespace mamba::train
