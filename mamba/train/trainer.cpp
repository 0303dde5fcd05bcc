#include "mamba/train/trainer.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <chrono>
#include <cmath>
#include <functional>
#include <utility>

#include "mamba/base/error.h"
#include "mamba/base/memory.h"
#include "mamba/base/mix_bits.h"
#include "mamba/ops/accumulate/accumulate.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/global_norm/global_norm.h"
#include "mamba/train/checkpoint.h"
#include "mamba/train/evaluation.h"
#include "mamba/train/objective.h"

namespace mamba::train {

namespace mx = mlx::core;

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string readable(double value) {
  return std::isnan(value) ? "nan" : fmt::format("{:g}", value);
}

// JSON has no number for what is not finite.
Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

}  // namespace

Json StepReport::to_json() const {
  Json line = {{"step", step},
               {"loss", number(loss)},
               {"lr", lr},
               {"grad_norm", number(grad_norm)},
               {"epoch", epoch},
               {"tokens_per_second", std::round(tokens_per_second * 10) / 10},
               {"peak_memory_mb", std::round(peak_memory_mb * 10) / 10}};
  if (eval_loss) {
    line["eval_loss"] = number(*eval_loss);
  }
  return line;
}

void check_trainable(const models::MambaLM& model) {
  if (model.is_quantized()) {
    throw UsageError(
        "the model is quantised and cannot be trained: take the one that it was made from, or convert it with --dtype");
  }
}

Trainer::Trainer(models::MambaLM& model, Trainable trainable, Batches batches, std::optional<Windows> held_out,
                 const Settings& settings, RunFolder& folder, Hooks hooks,
                 const std::optional<std::filesystem::path>& directory)
    : model_(model),
      trainable_(std::move(trainable)),
      batches_(std::move(batches)),
      held_out_(std::move(held_out)),
      settings_(settings),
      folder_(folder),
      hooks_(std::move(hooks)),
      optimizer_(trainable_, settings.optimizer()) {
  check_trainable(model);
  if (directory) {
    TrainerState state = load_trainer_state(*directory);
    optimizer_.restore(trainable_, state.moments, state.step);
    step_ = state.step;
    best_loss_ = state.best_loss;
    best_step_ = state.best_step;
    seconds_ = state.seconds;
    carried_ = std::move(state.carried);
    if (carried_) {
      carried_->check_fits(model_.config());
    }
  }
}

Trainer::Prepared Trainer::prepare(int64_t step) const {
  Prepared prepared{.step = step};
  int64_t targets = 0;
  for (int64_t g = 0; g < settings_.grad_accum; ++g) {
    prepared.parts.push_back(batches_.at(step * settings_.grad_accum + g));
    targets += prepared.parts.back().target_count;
    prepared.tokens += static_cast<int64_t>(prepared.parts.back().tokens.size());
  }
  prepared.divisor = static_cast<double>(std::max<int64_t>(1, targets));
  prepared.first = gradients_of(prepared, 0);
  return prepared;
}

Gradients Trainer::gradients_of(const Prepared& step, size_t part) const {
  const Batch& batch = step.parts[part];
  const bool continues = batch.continues && carried_.has_value();
  // The model takes a seed for each block from here on.
  const uint64_t place = static_cast<uint64_t>(step.step * settings_.grad_accum) + part;
  const models::Dropout dropout{settings_.dropout, mix_bits(settings_.seed ^ mix_bits(place + 1))};
  return loss_and_gradients(model_, trainable_, batch,
                            continues ? *carried_ : model_.initial_state(batch.tokens.shape(0)), step.divisor,
                            {.recompute = settings_.recompute, .dropout = dropout});
}

Trainer::Work Trainer::take_step(double learning_rate) {
  Prepared now = prepared_ ? *std::exchange(prepared_, std::nullopt) : prepare(step_);
  const bool on_gpu = !ops::on_cpu(mx::to_stream({}));
  std::vector<mx::array> sums;
  std::vector<mx::array> losses;
  std::optional<mx::array> norm;
  std::vector<mx::array> updated;
  // As torch.nn.utils.clip_grad_norm_ does it.
  const auto update = [&] {
    norm = ops::global_norm(sums);
    const auto clip = static_cast<float>(settings_.grad_clip);
    const mx::array scale = mx::minimum(mx::array(1.0f), mx::divide(mx::array(clip), mx::add(*norm, mx::array(1e-6f))));
    updated = optimizer_.step_graph(trainable_, std::move(sums), learning_rate, clip > 0 ? scale : mx::array(1.0f));
    updated.insert(updated.begin(), *norm);
  };
  const auto prepare_next = [&] {
    if (step_ + 1 < settings_.steps) {
      prepared_ = prepare(step_ + 1);
    }
  };
  for (size_t g = 0; g < now.parts.size(); ++g) {
    Gradients got = g == 0 ? *std::exchange(now.first, std::nullopt) : gradients_of(now, g);
    if (sums.empty()) {
      sums = std::move(got.values);
    } else {
      for (size_t i = 0; i < sums.size(); ++i) {
        mx::array sum = std::exchange(sums[i], nn::unset());
        if (sum.dtype() != mx::float32) {
          sum = mx::astype(sum, mx::float32);
        }
        sums[i] = ops::accumulate(std::move(sum), std::exchange(got.values[i], nn::unset()));
      }
      got.values.clear();
    }
    std::vector<mx::array> results = sums;
    results.push_back(got.loss);
    if (settings_.carry_state) {
      const std::vector<mx::array> arrays = got.state.arrays();
      results.insert(results.end(), arrays.begin(), arrays.end());
      carried_ = got.state;
    }
    if (on_gpu) {
      // What comes last takes the host long, so it is put together while the device is busy with what comes first.
      std::vector<std::function<void()>> meanwhile;
      if (g + 1 == now.parts.size()) {
        meanwhile = {update, prepare_next};
      }
      sender_.send(got, meanwhile);
      mx::async_eval(results);
    } else {
      mx::eval(results);
    }
    losses.push_back(got.loss);
  }
  if (on_gpu) {
    // The device goes on with the next step while the host looks at the numbers. Should they not be finite the run
    // ends, and the model in memory with it.
    sender_.replace(updated);
    if (prepared_) {
      sender_.send_first(*prepared_->first);
    }
  } else {
    norm = ops::global_norm(sums);
  }
  double loss = 0;
  for (mx::array& part : losses) {
    loss += static_cast<double>(part.item<float>());
  }
  const double grad_norm = static_cast<double>(norm->item<float>());
  if (!on_gpu && std::isfinite(loss) && std::isfinite(grad_norm)) {
    const double scale = settings_.grad_clip > 0 ? std::min(1.0, settings_.grad_clip / (grad_norm + 1e-6)) : 1.0;
    optimizer_.step(trainable_, std::move(sums), learning_rate, mx::array(static_cast<float>(scale)));
  }
  return {loss, grad_norm, now.tokens};
}

double Trainer::evaluate() {
  const Optimizer::Averaged averaged(optimizer_, trainable_);
  return held_out_loss(model_, *held_out_,
                       {.batch_size = settings_.batch_size,
                        .most_windows = settings_.eval_windows,
                        .carry_state = settings_.carry_state});
}

void Trainer::save(bool is_best) {
  const TrainerState state{.step = step_,
                           .best_loss = best_loss_,
                           .best_step = best_step_,
                           .seconds = seconds_,
                           .moments = optimizer_.moments(trainable_),
                           .carried = carried_};
  const nn::ParameterMap result = optimizer_.result(trainable_);
  // An adapter is written from the model itself, and samples are: they must find there what is saved.
  const Optimizer::Averaged averaged(optimizer_, trainable_);
  // As long as there is no held-out loss the newest is the best there is to name.
  folder_.save(step_, is_best || !best_step_, [&](const std::filesystem::path& directory) {
    hooks_.save_model(directory, result);
    save_trainer_state(directory, state);
  });
  if (hooks_.on_checkpoint) {
    hooks_.on_checkpoint();
  }
}

void Trainer::fail_not_finite(const std::string& what, bool weights_are_sound) {
  // Weights that were saved before anything was computed with them are no good ones.
  const std::optional<int64_t> saved = folder_.last();
  if (!weights_are_sound) {
    folder_.step_back(step_, !best_step_);
  }
  const std::optional<int64_t> last = folder_.last();
  if (last != saved && hooks_.on_step_back) {
    hooks_.on_step_back(folder_.checkpoint_path(*last));
  }
  const std::string kept =
      !last || (*last == step_ && !weights_are_sound)
          ? "there is no good checkpoint yet"
          : fmt::format("the checkpoint of step {} is kept in {}", *last, folder_.checkpoint_path(*last).string());
  throw Error(
      fmt::format("step {}: {}, so the run ends here; {}. A lower --lr, a longer --warmup or --grad-clip 1 may help",
                  step_, what, kept));
}

Outcome Trainer::run() {
  const Schedule schedule = settings_.learning_rates();
  int64_t saved = folder_.last() == step_ ? step_ : -1;
  bool is_sound = false;  // the held-out loss of the weights as they are is finite
  while (step_ < settings_.steps) {
    const auto start = Clock::now();
    const double learning_rate = schedule.learning_rate(step_);
    const Work work = take_step(learning_rate);
    const double seconds = seconds_since(start);
    seconds_ += seconds;
    StepReport report{.step = step_,
                      .loss = work.loss,
                      .lr = learning_rate,
                      .grad_norm = work.grad_norm,
                      .epoch = batches_.epoch_of((step_ + 1) * settings_.grad_accum),
                      .tokens_per_second = static_cast<double>(work.tokens) / seconds,
                      .peak_memory_mb = static_cast<double>(peak_memory_bytes()) / 1e6};
    if (!std::isfinite(work.loss) || !std::isfinite(work.grad_norm)) {
      folder_.append_metrics(report.to_json());
      fail_not_finite(
          fmt::format("the loss is {} and the norm of its gradients {}", readable(work.loss), readable(work.grad_norm)),
          is_sound);
    }
    if (saved == step_) {
      folder_.keep(settings_.keep);  // older ones go once it is known that this one is good
    }
    ++step_;
    const auto due = [&](int64_t every) { return step_ == settings_.steps || (every > 0 && step_ % every == 0); };
    bool is_best = false;
    is_sound = false;
    if (held_out_ && due(settings_.eval_every)) {
      report.eval_loss = evaluate();
      is_sound = std::isfinite(*report.eval_loss);
      is_best = is_sound && (!best_loss_ || *report.eval_loss < *best_loss_);
      if (is_best) {
        best_loss_ = report.eval_loss;
        best_step_ = step_;
      }
    }
    folder_.append_metrics(report.to_json());
    if (report.eval_loss && !is_sound) {
      fail_not_finite(fmt::format("the held-out loss is {}", readable(*report.eval_loss)), false);
    }
    if (hooks_.on_step) {
      hooks_.on_step(report);
    }
    if (is_best || due(settings_.save_every)) {
      save(is_best);
      saved = step_;
    }
    if (hooks_.should_stop && hooks_.should_stop() && step_ < settings_.steps) {
      if (saved != step_) {
        save(false);
      }
      folder_.keep(settings_.keep);
      return Outcome::kStopped;
    }
  }
  folder_.keep(settings_.keep);
  return Outcome::kFinished;
}

}  // namespace mamba::train
