#include "mamba/train/optimizer.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <utility>

#include "mamba/base/error.h"
#include "mamba/models/checkpoint.h"
#include "mamba/ops/adamw/adamw.h"
#include "mamba/ops/dispatch.h"

namespace mamba::train {

namespace mx = mlx::core;

namespace {

bool is_adapter(const std::string& path) {
  return path.find(".lora_") != std::string::npos;
}

mx::array own_zeros(const mx::array& a) {
  mx::array out = mx::zeros(a.shape(), mx::float32);
  out.eval();  // an array of its own: mx::zeros is one number, broadcast
  return mx::contiguous(out);
}

}  // namespace

bool decays(const std::string& path) {
  const std::string last = path.substr(path.rfind('.') + 1);
  const bool is_norm = path.ends_with(".norm.weight") || path.ends_with("norm_f.weight");
  return last != "A_log" && last != "D" && last != "bias" && !is_norm;
}

Optimizer::Optimizer(const Trainable& trainable, const OptimizerOptions& options) : options_(options) {
  std::vector<mx::array> made;
  trainable([&](const std::string& path, mx::array& value) {
    const mx::array master = mx::astype(value, mx::float32);
    Slot slot{path, own_zeros(master), own_zeros(master), std::nullopt};
    const bool rounded = options_.compute_dtype != mx::float32 && !models::keeps_precision(path) && !is_adapter(path);
    value = master;
    if (rounded) {
      slot.master = master;
      value = mx::astype(master, options_.compute_dtype);
    }
    made.insert(made.end(), {slot.m, slot.v, master, value});
    slots_.push_back(std::move(slot));
  });
  mx::eval(made);
}

void Optimizer::step(const Trainable& trainable, std::vector<mx::array> gradients, double learning_rate,
                     const mx::array& gradient_scale) {
  check(gradients.size() == slots_.size(), "[Optimizer] got {} gradients for {} arrays", gradients.size(),
        slots_.size());
  ++steps_;
  ops::AdamWOptions options{.learning_rate = learning_rate,
                            .beta1 = options_.beta1,
                            .beta2 = options_.beta2,
                            .eps = options_.eps,
                            .step = steps_};
  size_t next = 0;
  std::vector<mx::array> results;
  trainable([&](const std::string& path, mx::array& value) {
    Slot& slot = slots_[next];
    check(slot.path == path, "[Optimizer] {} came where {} was expected", path, slot.path);
    options.weight_decay = decays(path) ? options_.weight_decay : 0;
    options.copy_dtype = slot.master ? std::optional(options_.compute_dtype) : std::nullopt;
    mx::array parameter = slot.master ? std::move(*slot.master) : std::exchange(value, nn::unset());
    ops::AdamWOutputs out = ops::adamw({.parameter = std::move(parameter),
                                        .gradient = std::exchange(gradients[next], nn::unset()),
                                        .m = std::exchange(slot.m, nn::unset()),
                                        .v = std::exchange(slot.v, nn::unset()),
                                        .gradient_scale = gradient_scale},
                                       options);
    results.insert(results.end(), {out.parameter, out.m, out.v});
    slot.m = std::move(out.m);
    slot.v = std::move(out.v);
    if (slot.master) {
      slot.master = std::move(out.parameter);
      value = std::move(*out.copy);
      results.push_back(value);
    } else {
      value = std::move(out.parameter);
    }
    ++next;
  });
  mx::eval(results);
}

nn::ParameterMap Optimizer::parameters(const Trainable& trainable) const {
  nn::ParameterMap out;
  size_t next = 0;
  trainable([&](const std::string& path, mx::array& value) {
    const Slot& slot = slots_.at(next++);
    out.insert_or_assign(path, slot.master.value_or(value));
  });
  return out;
}

nn::ParameterMap Optimizer::moments() const {
  nn::ParameterMap out;
  for (const Slot& slot : slots_) {
    out.insert_or_assign("m." + slot.path, slot.m);
    out.insert_or_assign("v." + slot.path, slot.v);
  }
  return out;
}

void Optimizer::restore(const nn::ParameterMap& moments, int64_t steps) {
  const auto take = [&](const std::string& name, mx::array& value) {
    const auto found = moments.find(name);
    check(found != moments.end(), "the optimiser's state lacks {}", name);
    check(found->second.shape() == value.shape() && found->second.dtype() == mx::float32,
          "the optimiser's {} must be {} float32 but is {}", name, ops::shown(value.shape()),
          ops::shown(found->second.shape()));
    value = mx::contiguous(found->second);
    value.eval();
  };
  for (Slot& slot : slots_) {
    take("m." + slot.path, slot.m);
    take("v." + slot.path, slot.v);
  }
  steps_ = steps;
}

}  // namespace mamba::train
