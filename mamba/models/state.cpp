#include "mamba/models/state.h"

#include <mlx/ops.h>

#include "mamba/base/error.h"
#include "mamba/ops/dispatch.h"

namespace mamba::models {

namespace mx = mlx::core;

State State::zeros(const Config& config, int batch, mx::Dtype dtype) {
  check(batch >= 1, "[State] batch must be at least 1 but is {}", batch);
  // One pair of arrays serves all layers: they are never written to.
  const LayerState layer{mx::zeros({batch, config.d_conv - 1, config.d_inner}, dtype),
                         mx::zeros({batch, config.d_inner, config.d_state}, mx::float32)};
  return State{std::vector<LayerState>(static_cast<size_t>(config.n_layer), layer)};
}

int State::batch() const {
  return layers.empty() ? 0 : layers.front().ssm.shape(0);
}

State State::select(const std::vector<int>& rows) const {
  for (const int row : rows) {
    check(row >= 0 && row < batch(), "[State] row {} is not among the {} there are", row, batch());
  }
  const mx::array index(rows.begin(), {static_cast<int>(rows.size())}, mx::int32);
  State out;
  out.layers.reserve(layers.size());
  for (const LayerState& layer : layers) {
    out.layers.push_back({mx::take(layer.conv, index, 0), mx::take(layer.ssm, index, 0)});
  }
  return out;
}

State State::concatenate(const std::vector<State>& parts) {
  check(!parts.empty(), "[State] there is nothing to concatenate");
  if (parts.size() == 1) {
    return parts.front();
  }
  State out;
  for (size_t i = 0; i < parts.front().layers.size(); ++i) {
    std::vector<mx::array> conv;
    std::vector<mx::array> ssm;
    for (const State& part : parts) {
      check(part.layers.size() == parts.front().layers.size(), "[State] states of models with {} and {} layers",
            parts.front().layers.size(), part.layers.size());
      conv.push_back(part.layers[i].conv);
      ssm.push_back(part.layers[i].ssm);
    }
    out.layers.push_back({mx::concatenate(conv, 0), mx::concatenate(ssm, 0)});
  }
  return out;
}

std::vector<mx::array> State::arrays() const {
  std::vector<mx::array> out;
  out.reserve(layers.size() * 2);
  for (const LayerState& layer : layers) {
    out.push_back(layer.conv);
    out.push_back(layer.ssm);
  }
  return out;
}

std::string State::array_name(size_t layer, const char* part) {
  return fmt::format("layers.{}.{}", layer, part);
}

std::map<std::string, mx::array> State::named_arrays() const {
  std::map<std::string, mx::array> out;
  for (size_t i = 0; i < layers.size(); ++i) {
    out.emplace(array_name(i, "conv"), layers[i].conv);
    out.emplace(array_name(i, "ssm"), layers[i].ssm);
  }
  return out;
}

State State::from_arrays(const std::vector<mx::array>& arrays) {
  State out;
  for (size_t i = 0; i + 1 < arrays.size(); i += 2) {
    out.layers.push_back({arrays[i], arrays[i + 1]});
  }
  return out;
}

void State::check_fits(const Config& config) const {
  check(layers.size() == static_cast<size_t>(config.n_layer), "[State] is of a model with {} layers, not {}",
        layers.size(), config.n_layer);
  const int rows = batch();
  for (const LayerState& layer : layers) {
    ops::check_shape("State", "conv", layer.conv, {rows, config.d_conv - 1, config.d_inner});
    ops::check_shape("State", "ssm", layer.ssm, {rows, config.d_inner, config.d_state});
  }
}

uint64_t State::bytes() const {
  uint64_t total = 0;
  for (const mx::array& a : arrays()) {
    total += a.nbytes();
  }
  return total;
}

StackedState StackedState::of(const State& state) {
  std::vector<mx::array> conv;
  std::vector<mx::array> ssm;
  for (const LayerState& layer : state.layers) {
    conv.push_back(layer.conv);
    ssm.push_back(layer.ssm);
  }
  return {mx::stack(conv, 0), mx::stack(ssm, 0)};
}

State StackedState::split() const {
  const std::vector<mx::array> convs = mx::split(conv, conv.shape(0), 0);
  const std::vector<mx::array> ssms = mx::split(ssm, ssm.shape(0), 0);
  State out;
  for (size_t i = 0; i < convs.size(); ++i) {
    out.layers.push_back({mx::squeeze(convs[i], 0), mx::squeeze(ssms[i], 0)});
  }
  return out;
}

}  // namespace mamba::models
