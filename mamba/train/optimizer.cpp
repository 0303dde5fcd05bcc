#include "mamba/train/optimizer.h"

#include <mlx/ops.h>
#include <mlx/stream.h>
#include <mlx/transforms.h>

#include <algorithm>
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
  return mx::contiguous(mx::zeros(a.shape(), mx::float32));  // mx::zeros alone is one number, broadcast
}

// In memory of its own. MLX moves what the host reads into memory that host and device share, all that lies beside it,
// too, and there it would stay.
mx::array copied(const mx::array& a) {
  return mx::maximum(a, a);
}

// Whose gradient may have another dtype than others have (objective.h).
bool is_table(const std::string& path) {
  return path.ends_with("embeddings.weight") || path.ends_with("lm_head.weight");
}

// When the next step needs it, of `count` parameters: in their order, but for embeddings, of which it looks up a few
// rows and needs the rest for the output.
int64_t needed_at(const std::string& path, size_t index, size_t count) {
  return static_cast<int64_t>(path.ends_with("embeddings.weight") ? count : index);
}

}  // namespace

bool decays(const std::string& path) {
  const std::string last = path.substr(path.rfind('.') + 1);
  const bool is_norm = path.ends_with(".norm.weight") || path.ends_with("norm_f.weight");
  return last != "A_log" && last != "D" && last != "bias" && !is_norm;
}

Optimizer::Optimizer(const Trainable& trainable, const OptimizerOptions& options) : options_(options) {
  std::vector<mx::array> made;
  trainable.visit("", [&](const std::string& path, mx::array& value) {
    const mx::array master = mx::astype(value, mx::float32);
    Slot slot{path, own_zeros(master), own_zeros(master), std::nullopt, std::nullopt};
    if (options_.average_decay > 0) {
      slot.average = master;
    }
    const bool rounded = options_.compute_dtype != mx::float32 && !models::keeps_precision(path) && !is_adapter(path);
    value = master;
    if (rounded) {
      slot.master = master;
      value = mx::astype(master, options_.compute_dtype);
    }
    made.insert(made.end(), {slot.m, slot.v, master, value});
    slots_.push_back(std::move(slot));
  });
  mx::eval(std::exchange(made, {}));
  if (!ops::on_cpu(mx::to_stream({}))) {
    lay_out(trainable);
  }
}

Optimizer::~Optimizer() {
  try {
    if (!flat_) {
      std::vector<mx::array> later;  // slices that wait are done before these are there
      for (const Slot& slot : slots_) {
        later.push_back(slot.m);
      }
      mx::eval(later);
    }
    mx::synchronize();
  } catch (...) {
    // A step that failed tells whoever looks at what it gives.
  }
}

void Optimizer::lay_out(const Trainable& trainable) {
  std::vector<ops::FlatAdamW::Item> items;
  size_t next = 0;
  trainable.visit("", [&](const std::string& path, mx::array& value) {
    Slot& slot = slots_[next++];
    const bool has_copy = slot.master.has_value();
    items.push_back({.parameter = has_copy ? *std::exchange(slot.master, std::nullopt) : value,
                     .m = std::exchange(slot.m, nn::unset()),
                     .v = std::exchange(slot.v, nn::unset()),
                     .average = std::exchange(slot.average, std::nullopt),
                     .weight_decay = decays(path) ? options_.weight_decay : 0,
                     .copy_dtype = has_copy ? std::optional(options_.compute_dtype) : std::nullopt,
                     .is_apart = is_table(path)});
    value = nn::unset();
  });
  flat_.emplace(std::move(items));
  next = 0;
  std::vector<mx::array> made;
  trainable.visit("", [&](const std::string&, mx::array& value) {
    value = flat_->value(next++);
    made.push_back(value);
  });
  mx::eval(made);
}

void Optimizer::take_apart() {
  for (size_t i = 0; flat_ && i < slots_.size(); ++i) {
    slots_[i].m = flat_->m(i);
    slots_[i].v = flat_->v(i);
    slots_[i].average = flat_->average(i);
    if (flat_->has_copy(i)) {
      slots_[i].master = flat_->parameter(i);
    }
  }
  flat_.reset();
}

std::vector<mx::array> Optimizer::flat_step(const Trainable& trainable, const std::vector<mx::array>& gradients,
                                            const ops::AdamWOptions& options, const mx::array& gradient_scale) {
  if (!flat_) {
    lay_out(trainable);
  }
  std::vector<mx::array> results = flat_->step(gradients, options, gradient_scale);
  size_t next = 0;
  trainable.visit("", [&](const std::string& path, mx::array& value) {
    check(slots_[next].path == path, "[Optimizer] {} came where {} was expected", path, slots_[next].path);
    value = flat_->value(next++);
  });
  return results;
}

mx::array Optimizer::m_of(size_t slot) const {
  return flat_ ? copied(flat_->m(slot)) : slots_.at(slot).m;
}

mx::array Optimizer::v_of(size_t slot) const {
  return flat_ ? copied(flat_->v(slot)) : slots_.at(slot).v;
}

mx::array Optimizer::parameter_of(size_t slot, const mx::array& value) const {
  return flat_ ? copied(flat_->parameter(slot)) : slots_.at(slot).master.value_or(value);
}

std::optional<mx::array> Optimizer::average_of(size_t slot) const {
  if (!flat_) {
    return slots_.at(slot).average;
  }
  const std::optional<mx::array> average = flat_->average(slot);
  return average ? std::optional(copied(*average)) : std::nullopt;
}

std::vector<mx::array> Optimizer::step_graph(const Trainable& trainable, std::vector<mx::array> gradients,
                                             double learning_rate, const mx::array& gradient_scale) {
  check(gradients.size() == slots_.size(), "[Optimizer] got {} gradients for {} arrays", gradients.size(),
        slots_.size());
  ++steps_;
  ops::AdamWOptions options{.learning_rate = learning_rate,
                            .beta1 = options_.beta1,
                            .beta2 = options_.beta2,
                            .eps = options_.eps,
                            .step = steps_};
  const auto done = static_cast<double>(steps_);
  options.average_decay = std::min(options_.average_decay, (1 + done) / (10 + done));
  if (!ops::on_cpu(mx::to_stream({}))) {
    return flat_step(trainable, gradients, options, gradient_scale);
  }
  std::vector<ops::AdamWInputs> inputs;
  std::vector<ops::AdamWOptions> all_options;
  size_t next = 0;
  trainable.visit("", [&](const std::string& path, mx::array& value) {
    Slot& slot = slots_[next];
    check(slot.path == path, "[Optimizer] {} came where {} was expected", path, slot.path);
    options.weight_decay = decays(path) ? options_.weight_decay : 0;
    options.copy_dtype = slot.master ? std::optional(options_.compute_dtype) : std::nullopt;
    options.later_rank = needed_at(path, next, slots_.size());
    mx::array parameter = slot.master ? std::move(*slot.master) : std::exchange(value, nn::unset());
    inputs.push_back({.parameter = std::move(parameter),
                      .gradient = std::exchange(gradients[next], nn::unset()),
                      .m = std::exchange(slot.m, nn::unset()),
                      .v = std::exchange(slot.v, nn::unset()),
                      .average = std::exchange(slot.average, std::nullopt),
                      .gradient_scale = gradient_scale});
    all_options.push_back(options);
    ++next;
  });
  std::vector<ops::AdamWOutputs> outputs = ops::adamw_all(std::move(inputs), all_options);
  std::vector<mx::array> results;
  next = 0;
  trainable.visit("", [&](const std::string&, mx::array& value) {
    Slot& slot = slots_[next];
    ops::AdamWOutputs& out = outputs[next];
    if (out.begun) {
      results.push_back(*out.begun);
    } else {
      results.insert(results.end(), {out.parameter, out.m, out.v});
      for (const std::optional<mx::array>& a : {out.average, out.copy}) {
        if (a) {
          results.push_back(*a);
        }
      }
    }
    slot.m = std::move(out.m);
    slot.v = std::move(out.v);
    slot.average = std::move(out.average);
    if (slot.master) {
      slot.master = std::move(out.parameter);
      value = std::move(*out.copy);
    } else {
      value = std::move(out.parameter);
    }
    ++next;
  });
  return results;
}

void Optimizer::step(const Trainable& trainable, std::vector<mx::array> gradients, double learning_rate,
                     const mx::array& gradient_scale) {
  const std::vector<mx::array> results = step_graph(trainable, std::move(gradients), learning_rate, gradient_scale);
  mx::async_eval(results);  // meanwhile the host prepares the next step
}

nn::ParameterMap Optimizer::result(const Trainable& trainable) const {
  nn::ParameterMap out;
  size_t next = 0;
  trainable.visit("", [&](const std::string& path, mx::array& value) {
    const std::optional<mx::array> average = average_of(next);
    out.insert_or_assign(path, average ? *average : parameter_of(next, value));
    ++next;
  });
  return out;
}

nn::ParameterMap Optimizer::moments(const Trainable& trainable) const {
  nn::ParameterMap out;
  size_t next = 0;
  trainable.visit("", [&](const std::string& path, mx::array& value) {
    out.insert_or_assign("m." + path, m_of(next));
    out.insert_or_assign("v." + path, v_of(next));
    if (options_.average_decay > 0) {
      out.insert_or_assign("p." + path, parameter_of(next, value));
    }
    ++next;
  });
  return out;
}

Optimizer::Averaged::Averaged(const Optimizer& optimizer, const Trainable& trainable) : trainable_(trainable) {
  size_t next = 0;
  trainable.visit("", [&](const std::string&, mx::array& value) {
    parameters_.push_back(value);
    if (const std::optional<mx::array> average = optimizer.average_of(next++)) {
      value = mx::astype(*average, value.dtype());
    }
  });
}

Optimizer::Averaged::~Averaged() {
  nn::set_parameter_list(trainable_, parameters_);
}

void Optimizer::restore(const Trainable& trainable, const nn::ParameterMap& moments, int64_t steps) {
  const auto stored = [&](const std::string& name, const mx::array& like) {
    const auto found = moments.find(name);
    check(found != moments.end(), "the optimiser's state lacks {}", name);
    check(found->second.shape() == like.shape() && found->second.dtype() == mx::float32,
          "the optimiser's {} must be {} float32 but is {}", name, ops::shown(like.shape()),
          ops::shown(found->second.shape()));
    return found->second;
  };
  take_apart();
  size_t next = 0;
  std::vector<mx::array> made;
  trainable.visit("", [&](const std::string& path, mx::array& value) {
    Slot& slot = slots_.at(next++);
    slot.m = stored("m." + path, value);
    slot.v = stored("v." + path, value);
    if (slot.average) {
      const mx::array parameter = stored("p." + path, value);
      value = mx::astype(parameter, value.dtype());
      if (slot.master) {
        slot.master = parameter;
      }
      made.push_back(value);
    }
  });
  mx::eval(std::exchange(made, {}));
  steps_ = steps;
  if (!ops::on_cpu(mx::to_stream({}))) {
    lay_out(trainable);
  }
}

}  // namespace mamba::train
