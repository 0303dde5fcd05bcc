// AdamW over a model's trainable arrays, in float32 whatever they are computed in.
#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "mamba/nn/parameters.h"
#include "mamba/ops/adamw/flat.h"
#include "mamba/train/trainable.h"

namespace mamba::train {

struct OptimizerOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  // Above 0, an average of the parameters is kept too: average = decay average + (1 - decay) parameter after each step,
  // where the decay rises from 0 with the steps, (1 + t) / (10 + t) at most, so that the start is soon forgotten.
  double average_decay = 0;
  // What large weights are computed in: with bfloat16 the model holds rounded copies and the optimiser the float32
  // masters, except for small tensors that keep their precision (models/checkpoint.h) and adapters.
  mlx::core::Dtype compute_dtype = mlx::core::float32;
};

// Weight decay acts on everything but A_log, D, norms and biases, as in the official implementation.
bool decays(const std::string& path);

class Optimizer {
 public:
  // Takes the arrays of `trainable`, in float32, as the masters, and puts their computed form in their place.
  Optimizer(const Trainable& trainable, const OptimizerOptions& options);
  // Waits for all of the last step: a program that ended meanwhile would take away what other threads work with.
  ~Optimizer();
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // One step with these gradients, times `gradient_scale` () float32, of which the computation begins.
  void step(const Trainable& trainable, std::vector<mlx::core::array> gradients, double learning_rate,
            const mlx::core::array& gradient_scale);

  // The same as a graph: what has to be evaluated.
  std::vector<mlx::core::array> step_graph(const Trainable& trainable, std::vector<mlx::core::array> gradients,
                                           double learning_rate, const mlx::core::array& gradient_scale);

  int64_t steps() const { return steps_; }

  // The result so far in float32, by path: the averages where they are kept, else the parameters.
  nn::ParameterMap result(const Trainable& trainable) const;

  // Puts the averages, where they are kept, into the model for as long as the returned object lives.
  class Averaged {
   public:
    Averaged(const Optimizer& optimizer, const Trainable& trainable);
    ~Averaged();
    Averaged(const Averaged&) = delete;
    Averaged& operator=(const Averaged&) = delete;

   private:
    const Trainable& trainable_;
    std::vector<mlx::core::array> parameters_;
  };

  // What a resumed run needs beside the result: "m.<path>", "v.<path>", and "p.<path>", the parameters, where the
  // result is their average.
  nn::ParameterMap moments(const Trainable& trainable) const;

  // Goes on from result(), which the model holds, and from what moments() gave after `steps` steps. Throws Error that
  // names what is missing or misshapen.
  void restore(const Trainable& trainable, const nn::ParameterMap& moments, int64_t steps);

 private:
  // On GPUs `flat_` has these arrays, and slots have none.
  struct Slot {
    std::string path;
    mlx::core::array m;
    mlx::core::array v;
    std::optional<mlx::core::array> master;   // where the model holds a rounded copy
    std::optional<mlx::core::array> average;  // where one is kept
  };

  // Moves all that there is into `flat_`, and puts what it computes with into the model.
  void lay_out(const Trainable& trainable);
  void take_apart();
  std::vector<mlx::core::array> flat_step(const Trainable& trainable, const std::vector<mlx::core::array>& gradients,
                                          const ops::AdamWOptions& options, const mlx::core::array& gradient_scale);
  mlx::core::array m_of(size_t slot) const;
  mlx::core::array v_of(size_t slot) const;
  // The parameter in float32, of which the model holds `value`.
  mlx::core::array parameter_of(size_t slot, const mlx::core::array& value) const;
  std::optional<mlx::core::array> average_of(size_t slot) const;

  OptimizerOptions options_;
  std::vector<Slot> slots_;  // in the trainable arrays' order
  std::optional<ops::FlatAdamW> flat_;
  int64_t steps_ = 0;
};

}  // namespace mamba::train
