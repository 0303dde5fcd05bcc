// Parameters by name, in a fixed order. A layer lists its own with visit(); names are checkpoint keys.
#pragma once

#include <mlx/array.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace mamba::nn {

// Called with "backbone.layers.0.mixer.in_proj.weight" and the array, which it may replace.
using ParameterVisitor = std::function<void(const std::string& path, mlx::core::array& value)>;

// Arrays by checkpoint key.
using ParameterMap = std::map<std::string, mlx::core::array>;

// "backbone" + "norm_f" -> "backbone.norm_f"; an empty prefix adds nothing.
std::string joined(const std::string& prefix, const std::string& name);

// A parameter that has no value yet: an empty float32 array.
mlx::core::array unset();

// What `layer.visit("", ...)` passes, as a map, and as two lists in visiting order (the form that
// mlx::core::value_and_grad takes).
template <typename Layer>
ParameterMap parameters(Layer& layer) {
  ParameterMap out;
  layer.visit("", [&](const std::string& path, mlx::core::array& value) { out.insert_or_assign(path, value); });
  return out;
}

template <typename Layer>
std::vector<mlx::core::array> parameter_list(Layer& layer) {
  std::vector<mlx::core::array> out;
  layer.visit("", [&](const std::string&, mlx::core::array& value) { out.push_back(value); });
  return out;
}

// Puts `values`, in visiting order, into the layer.
template <typename Layer>
void set_parameter_list(Layer& layer, const std::vector<mlx::core::array>& values) {
  size_t next = 0;
  layer.visit("", [&](const std::string&, mlx::core::array& value) { value = values.at(next++); });
}

}  // namespace mamba::nn
