// The state of the rows of a token source, layers apart or side by side: as who asked last wanted it.
#pragma once

#include <mlx/array.h>

#include <utility>
#include <variant>
#include <vector>

#include "mamba/models/state.h"

namespace mamba::generate {

class RowsState {
 public:
  explicit RowsState(models::State state) : value_(std::move(state)) {}

  models::State& apart() {
    if (const auto* stacked = std::get_if<models::StackedState>(&value_)) {
      value_ = stacked->split();
    }
    return std::get<models::State>(value_);
  }

  models::StackedState& stacked() {
    if (const auto* state = std::get_if<models::State>(&value_)) {
      value_ = models::StackedState::of(*state);
    }
    return std::get<models::StackedState>(value_);
  }

  std::vector<mlx::core::array> arrays() const {
    if (const auto* stacked = std::get_if<models::StackedState>(&value_)) {
      return {stacked->conv, stacked->ssm};
    }
    return std::get<models::State>(value_).arrays();
  }

 private:
  std::variant<models::State, models::StackedState> value_;
};

}  // namespace mamba::generate
