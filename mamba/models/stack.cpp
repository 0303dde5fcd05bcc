// Layers' weights side by side. A kind of weights is stacked and handed back as views before the next, so that no more
// than one kind is in memory twice.
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <functional>
#include <vector>

#include "mamba/models/mamba.h"

namespace mamba::models {

namespace mx = mlx::core;

namespace {

// The stack of `count` arrays, each of which becomes a view of it.
mx::array stack(size_t count, const std::function<mx::array&(size_t)>& of) {
  std::vector<mx::array> parts;
  for (size_t i = 0; i < count; ++i) {
    parts.push_back(of(i));
  }
  mx::array all = mx::contiguous(mx::stack(parts, 0));
  all.eval();
  std::vector<mx::array> views = mx::split(all, static_cast<int>(count), 0);
  for (size_t i = 0; i < count; ++i) {
    of(i) = mx::squeeze(views[i], 0);
    parts[i] = of(i);
  }
  mx::eval(parts);
  return all;
}

}  // namespace

bool MambaLM::stack_layers() {
  if (!is_fusible() || embeddings_.quantized || embeddings_.weight.dtype() != dtype() ||
      output_weight().dtype() != dtype()) {
    return false;
  }
  cpu_model_.reset();  // it holds the layers' weights as they were
  const size_t count = layers_.size();
  const auto of_layers = [&](const std::function<mx::array&(Block&)>& part) {
    return stack(count, [&](size_t i) -> mx::array& { return part(layers_[i]); });
  };
  const auto of_derived = [&](const std::function<mx::array&(DerivedParameters&)>& part) {
    return stack(count, [&](size_t i) -> mx::array& { return part(derived_[i]); });
  };
  std::optional<mx::array> conv_bias;
  if (config_.conv_bias) {
    conv_bias = of_layers([](Block& b) -> mx::array& { return *b.mixer.conv1d.bias; });
  }
  stacked_ =
      ops::ModelStepWeights{.embeddings = embeddings_.weight,
                            .norm = of_layers([](Block& b) -> mx::array& { return b.norm.weight; }),
                            .eps = norm_f_.eps,
                            .in_proj = of_layers([](Block& b) -> mx::array& { return b.mixer.in_proj.weight; }),
                            .conv_weight = of_derived([](DerivedParameters& d) -> mx::array& { return d.conv_weight; }),
                            .conv_bias = conv_bias,
                            .x_proj = of_layers([](Block& b) -> mx::array& { return b.mixer.x_proj.weight; }),
                            .dt_proj = of_layers([](Block& b) -> mx::array& { return b.mixer.dt_proj.weight; }),
                            .dt_bias = of_derived([](DerivedParameters& d) -> mx::array& { return d.dt_bias; }),
                            .A = of_derived([](DerivedParameters& d) -> mx::array& { return d.A; }),
                            .D = of_derived([](DerivedParameters& d) -> mx::array& { return d.D; }),
                            .out_proj = of_layers([](Block& b) -> mx::array& { return b.mixer.out_proj.weight; }),
                            .norm_f = norm_f_.weight,
                            .output = output_weight(),
                            .residual_dtype = config_.residual_in_fp32 ? mx::float32 : dtype()};
  return true;
}

}  // namespace mamba::models
