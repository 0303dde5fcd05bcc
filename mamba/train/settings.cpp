#include "mamba/train/settings.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "mamba/base/error.h"
#include "mamba/models/registry.h"

namespace mamba::train {

namespace {

constexpr int64_t kMost = int64_t{1} << 40;

// Calls f(name, field) for each of the settings: one list for reading and writing.
template <typename Self, typename F>
void each_field(Self& s, F&& f) {
  f("seq_len", s.seq_len);
  f("batch_size", s.batch_size);
  f("grad_accum", s.grad_accum);
  f("steps", s.steps);
  f("shuffle", s.shuffle);
  f("carry_state", s.carry_state);
  f("plain_share", s.plain_share);
  f("plain_end", s.plain_end);
  f("lr", s.lr);
  f("schedule", s.schedule);
  f("warmup", s.warmup);
  f("min_lr_ratio", s.min_lr_ratio);
  f("decay_ratio", s.decay_ratio);
  f("weight_decay", s.weight_decay);
  f("beta1", s.beta1);
  f("beta2", s.beta2);
  f("eps", s.eps);
  f("grad_clip", s.grad_clip);
  f("dropout", s.dropout);
  f("average", s.average);
  f("dtype", s.dtype);
  f("recompute", s.recompute);
  f("seed", s.seed);
  f("eval_every", s.eval_every);
  f("eval_windows", s.eval_windows);
  f("save_every", s.save_every);
  f("keep", s.keep);
}

struct Reader {
  const JsonObject& json;

  void operator()(const char* name, int64_t& value) const { value = json.integer_or(name, value, -1, kMost); }
  void operator()(const char* name, uint64_t& value) const {
    value = static_cast<uint64_t>(json.integer_or(name, static_cast<int64_t>(value), 0, INT64_MAX));
  }
  void operator()(const char* name, double& value) const { value = json.number_or(name, value, 0, 1e30); }
  void operator()(const char* name, std::optional<double>& value) const {
    if (json.has(name)) {
      value = json.number_or(name, 0, 0, 1e30);
    }
  }
  void operator()(const char* name, bool& value) const { value = json.boolean_or(name, value); }
  void operator()(const char* name, std::string& value) const { value = json.string_or(name, value); }
};

void at_least(const char* option, int64_t value, int64_t low) {
  if (value < low) {
    throw UsageError(fmt::format("{} must be at least {} but is {}", option, low, value));
  }
}

void within(const char* option, double value, double low, double high) {
  if (!(value >= low && value <= high)) {
    throw UsageError(fmt::format("{} must lie between {} and {} but is {}", option, low, high, value));
  }
}

}  // namespace

void Settings::check_sense() const {
  at_least("--seq-len", seq_len, 1);
  at_least("--batch-size", batch_size, 1);
  at_least("--grad-accum", grad_accum, 1);
  at_least("--steps", steps, 1);
  at_least("--warmup", warmup, -1);
  at_least("--eval-every", eval_every, 0);
  at_least("--eval-windows", eval_windows, 1);
  at_least("--save-every", save_every, 0);
  at_least("--keep", keep, 1);
  within("--lr", lr, 0, 1e30);
  within("--weight-decay", weight_decay, 0, 1e3);
  within("--beta1", beta1, 0, 0.999999999);
  within("--beta2", beta2, 0, 0.999999999);
  within("--eps", eps, 0, 1);
  within("--grad-clip", grad_clip, 0, 1e30);
  within("--dropout", dropout, 0, 0.99);
  within("--average", average, 0, 0.9999999);
  if (plain_share) {
    within("--plain-share", *plain_share, 0, 1);
  }
  within("--plain-end", plain_end, 0, 1);
  within("--min-lr-ratio", min_lr_ratio, 0, 1);
  within("--decay-ratio", decay_ratio, 0, 1);
  schedule_kind(schedule);
  if (dtype != "float32" && dtype != "bfloat16") {
    throw UsageError(fmt::format("training computes in float32 or bfloat16, not in {}", quote(dtype)));
  }
}

Schedule Settings::learning_rates() const {
  return {.kind = schedule_kind(schedule),
          .peak = lr,
          .steps = steps,
          .warmup = warmup >= 0 ? warmup : std::min<int64_t>(500, steps / 20),
          .floor = min_lr_ratio,
          .decay_fraction = decay_ratio};
}

BatchOptions Settings::batches() const {
  BatchOptions out{.batch_size = batch_size, .shuffle = shuffle, .carry_state = carry_state, .seed = seed};
  if (plain_share) {
    out.plain_share = plain_share;
    out.plain_from = std::llround((1 - plain_end) * static_cast<double>(steps)) * grad_accum;
  }
  return out;
}

OptimizerOptions Settings::optimizer() const {
  return {.beta1 = beta1,
          .beta2 = beta2,
          .eps = eps,
          .weight_decay = weight_decay,
          .average_decay = average,
          .compute_dtype = models::parse_dtype(dtype)};
}

Json Settings::to_json() const {
  Json out;
  each_field(*this, [&](const char* name, const auto& value) {
    if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::optional<double>>) {
      out[name] = value ? Json(*value) : Json(nullptr);
    } else {
      out[name] = value;
    }
  });
  return out;
}

Settings Settings::from_json(const Json& json, const std::string& file) {
  Settings out;
  const JsonObject object(json, file);
  each_field(out, Reader{object});
  return out;
}

}  // namespace mamba::train
