#include "mamba/models/initialize.h"

#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <cmath>

namespace mamba::models {

namespace mx = mlx::core;

namespace {

class Initializer {
 public:
  Initializer(const Config& config, uint64_t seed) : config_(config), key_(mx::random::key(seed)) {}

  mx::array value(const std::string& path) {
    const int d = config_.d_model;
    const int inner = config_.d_inner;
    const int n = config_.d_state;
    const int rank = config_.dt_rank;
    const auto named = [&](const char* suffix) { return path.ends_with(suffix); };
    if (named(".A_log")) {
      return mx::contiguous(mx::broadcast_to(mx::log(mx::arange(1, n + 1, mx::float32)), {inner, n}));
    }
    if (named(".D")) {
      return mx::ones({inner});
    }
    if (named("norm.weight") || named("norm_f.weight")) {
      return mx::ones({d});
    }
    if (named("embeddings.weight")) {
      return mx::multiply(mx::random::normal({config_.vocab_size, d}, mx::float32, next_key()),
                          mx::array(static_cast<float>(config_.initializer_range)));
    }
    if (named("conv1d.weight")) {
      return uniform({inner, 1, config_.d_conv}, config_.d_conv);
    }
    if (named("conv1d.bias")) {
      return uniform({inner}, config_.d_conv);
    }
    if (named("dt_proj.weight")) {
      const double std = config_.dt_scale / std::sqrt(static_cast<double>(rank));
      return config_.dt_init_constant ? mx::full({inner, rank}, static_cast<float>(std)) : between({inner, rank}, std);
    }
    if (named("dt_proj.bias")) {
      return inverse_softplus_of_dt(inner);
    }
    if (named("in_proj.weight")) {
      return uniform({2 * inner, d}, d);
    }
    if (named("x_proj.weight")) {
      return uniform({rank + 2 * n, inner}, inner);
    }
    if (named("out_proj.weight")) {
      const mx::array drawn = uniform({d, inner}, inner);
      if (!config_.rescale_prenorm_residual) {
        return drawn;
      }
      return mx::divide(drawn, mx::array(std::sqrt(static_cast<float>(config_.n_layer))));
    }
    if (named("in_proj.bias")) {
      return mx::zeros({2 * inner});
    }
    if (named("out_proj.bias")) {
      return mx::zeros({d});
    }
    if (named("lm_head.weight")) {
      return uniform({config_.vocab_size, d}, d);
    }
    throw Error(fmt::format("[initialize] no rule for parameter {}", path));
  }

 private:
  mx::array next_key() {
    const auto [key, rest] = mx::random::split(key_);
    key_ = rest;
    return key;
  }

  // PyTorch's default for weights and biases of a layer with this many inputs: U(-1/sqrt(in), 1/sqrt(in)).
  mx::array uniform(const mx::Shape& shape, int inputs) {
    return between(shape, 1.0 / std::sqrt(static_cast<double>(inputs)));
  }

  mx::array between(const mx::Shape& shape, double bound) {
    const auto b = static_cast<float>(bound);
    return mx::random::uniform(mx::array(-b), mx::array(b), shape, mx::float32, next_key());
  }

  mx::array inverse_softplus_of_dt(int inner) {
    const auto low = static_cast<float>(std::log(config_.dt_min));
    const auto high = static_cast<float>(std::log(config_.dt_max));
    const mx::array drawn = mx::random::uniform(mx::array(low), mx::array(high), {inner}, mx::float32, next_key());
    const mx::array dt = mx::maximum(mx::exp(drawn), mx::array(static_cast<float>(config_.dt_init_floor)));
    // softplus(x) = dt  <=>  x = dt + log(1 - exp(-dt))
    return mx::add(dt, mx::log(mx::negative(mx::expm1(mx::negative(dt)))));
  }

  const Config& config_;
  mx::array key_;
};

}  // namespace

void initialize(MambaLM& model, uint64_t seed) {
  const Config config = model.config();
  Initializer initializer(config, seed);
  std::vector<mx::array> values;
  model.visit("", [&](const std::string& path, mx::array& value) {
    value = initializer.value(path);
    values.push_back(value);
  });
  mx::eval(values);
}

}  // namespace mamba::models
