// What a run changes: some of a model's arrays, by path, always in the same order.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "mamba/nn/parameters.h"

namespace mamba::train {

// Calls the visitor with each path and array, which it may replace: a model's visit(), or that of its adapter.
using Trainable = std::function<void(const nn::ParameterVisitor&)>;

inline std::vector<mlx::core::array> arrays_of(const Trainable& trainable) {
  std::vector<mlx::core::array> out;
  trainable([&](const std::string&, mlx::core::array& value) { out.push_back(value); });
  return out;
}

inline void put_arrays(const Trainable& trainable, const std::vector<mlx::core::array>& values) {
  size_t next = 0;
  trainable([&](const std::string&, mlx::core::array& value) { value = values.at(next++); });
}

}  // namespace mamba::train
