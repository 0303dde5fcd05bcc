// What a run changes: some of a model's arrays, by path, always in the same order.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "mamba/nn/parameters.h"

namespace mamba::train {

// All parameters of a model, or those of its adapter, for nn::parameters(), nn::parameter_list() and
// nn::set_parameter_list(). Refers to what it was made of.
class Trainable {
 public:
  template <typename Layer>
  static Trainable of(Layer& layer) {
    return Trainable(
        [&layer](const std::string& path, const nn::ParameterVisitor& visitor) { layer.visit(path, visitor); });
  }

  void visit(const std::string& path, const nn::ParameterVisitor& visitor) const { visit_(path, visitor); }

 private:
  using Visit = std::function<void(const std::string& path, const nn::ParameterVisitor& visitor)>;
  explicit Trainable(Visit visit) : visit_(std::move(visit)) {}

  Visit visit_;
};

}  // namespace mamba::train
