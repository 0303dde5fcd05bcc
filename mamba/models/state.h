// The recurrent memory of a model, as a value: copy it, keep it, save it, go on from it.
#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "mamba/models/config.h"

namespace mamba::models {

struct LayerState {
  mlx::core::array conv;  // (B, d_conv - 1, d_inner), the model's dtype: the convolution's last inputs, oldest first
  mlx::core::array ssm;   // (B, d_inner, d_state) float32
};

// One row per sequence. Arrays are immutable, so a copy costs nothing and later calls do not change it.
struct State {
  std::vector<LayerState> layers;

  // Before any token. `dtype` is that of the model's weights.
  static State zeros(const Config& config, int batch, mlx::core::Dtype dtype);

  int batch() const;

  // The sequences at `rows`, in that order; a row may be named more than once.
  State select(const std::vector<int>& rows) const;

  // The sequences of all `parts`, one after the other. Throws Error unless the parts come from one kind of model.
  static State concatenate(const std::vector<State>& parts);

  // All arrays, for mlx::core::eval.
  std::vector<mlx::core::array> arrays() const;

  // The same by name, for files: "layers.0.conv", "layers.0.ssm", ...
  std::map<std::string, mlx::core::array> named_arrays() const;
  static std::string array_name(size_t layer, const char* part);

  // The state that arrays() gave these of.
  static State from_arrays(const std::vector<mlx::core::array>& arrays);

  // Throws Error with both shapes unless the state is one of `config`'s models.
  void check_fits(const Config& config) const;

  uint64_t bytes() const;
};

// The same with all layers side by side, as a step in one launch takes it.
struct StackedState {
  mlx::core::array conv;  // (layers, B, d_conv - 1, d_inner)
  mlx::core::array ssm;   // (layers, B, d_inner, d_state) float32

  static StackedState of(const State& state);
  State split() const;
};

}  // namespace mamba::models
