#include "apps/mlx-mamba/training_options.h"

#include <set>

#include "mamba/base/error.h"

namespace mamba::cli {

namespace {

constexpr int64_t kMostSteps = int64_t{1} << 40;

// "seq_len" -> "--seq-len"
std::string option_name(const std::string& setting) {
  if (setting == "shuffle") {
    return "--no-shuffle";
  }
  std::string out = "--" + setting;
  for (char& c : out) {
    c = c == '_' ? '-' : c;
  }
  return out;
}

// What to tell about a setting that is not what it was.
std::string changed(const std::string& name, const Json& before, const Json& now) {
  const std::string option = option_name(name);
  if (now.is_boolean()) {
    return fmt::format("{} was not given when the run began: leave it out", option);
  }
  const bool by_default = before.is_null() || before == -1;  // a warm-up that follows from the steps
  return fmt::format("{} was {} when the run began and is {} now: leave it {}", option,
                     by_default ? "left out" : json_text(before), json_text(now), by_default ? "out" : "as it was");
}

}  // namespace

void TrainingOptions::declare_data(OptionTable& table) {
  table.group("Data");
  table.paths("--data", "PATH", &data,
              "what to train on: files or folders of text, .jsonl with text, prompt and completion, or messages, "
              ".npy or .bin of token ids");
  table.paths("--eval-data", "PATH", &eval_data, "what to measure the held-out loss on, instead of a part of --data");
  table.real(
      "--eval-fraction", "F", [this](double f) { eval_fraction = f; }, 0, 0.5,
      "part of --data that is held out (default: 0.05; nothing with --no-shuffle or where there are under 20 "
      "windows)");
}

void TrainingOptions::declare_noise(OptionTable& table) {
  table.real(
      "--bpe-dropout", "P", [this](double p) { bpe_dropout = p; }, 0, 1,
      "read plain text again and again, cut into tokens in other ways: each merge is left out with this probability");
  table.integer(
      "--segmentations", "N", [this](int64_t n) { segmentations = static_cast<int>(n); }, 1, 1000,
      "how often, the first time as it is (default: 8 with --bpe-dropout)");
  table.real(
      "--plain-share", "F", [this](double f) { given["plain_share"] = f; }, 0, 1,
      "with --bpe-dropout: part of a batch's rows that show the text cut as it is in use (default: 0.25)");
  table.real(
      "--plain-end", "F", [this](double f) { given["plain_end"] = f; }, 0, 1,
      "with --bpe-dropout: part of the run, at its end, in which all rows do (default: 0.15)");
}

void TrainingOptions::declare_settings(OptionTable& table, const Defaults& defaults) {
  const auto integer = [&](const char* name, const char* value_name, int64_t low, int64_t high,
                           const std::string& help) {
    table.integer(
        option_name(name), value_name, [this, name](int64_t n) { given[name] = n; }, low, high, help);
  };
  const auto real = [&](const char* name, const char* value_name, double low, double high, const std::string& help) {
    table.real(
        option_name(name), value_name, [this, name](double x) { given[name] = x; }, low, high, help);
  };
  const auto flag = [&](const char* option, const char* name, bool value, const std::string& help) {
    table.switched(
        option, [this, name, value] { given[name] = value; }, help);
  };
  const auto choice = [&](const char* name, const char* value_name, std::vector<std::string> words,
                          const std::string& help) {
    table.choice(
        option_name(name), value_name, std::move(words), [this, name](const std::string& word) { given[name] = word; },
        help);
  };
  table.group("Steps");
  integer("seq_len", "L", 1, 1 << 24, "tokens of a window (default: 512)");
  integer("batch_size", "B", 1, 1 << 20, "windows at once (default: " + defaults.batch_size + ")");
  integer("grad_accum", "G", 1, 1 << 20, "batches that make one step (default: 1)");
  integer("steps", "N", 1, kMostSteps, "steps of the whole run (default: " + defaults.steps + ")");
  flag("--no-shuffle", "shuffle", false, "take the windows in their order");
  flag("--carry-state", "carry_state", true,
       "go on from the state that a row's last window left: for texts longer than a window");
  integer("seed", "S", 0, INT64_MAX, "of everything random (default: 0); the same seed gives the same run");
  table.group("Optimiser");
  real("lr", "LR", 0, 1e30, "peak learning rate (default: " + defaults.lr + ")");
  choice("schedule", "S", {"constant", "cosine", "wsd"},
         "constant, cosine (down to the floor) or wsd (constant, then a straight line down) (default: cosine)");
  integer("warmup", "W", 0, kMostSteps, "steps over which the rate rises (default: 5 % of the run, 500 at most)");
  real("min_lr_ratio", "F", 0, 1, "floor of cosine and wsd, as a part of the peak (default: 0)");
  real("decay_ratio", "F", 0, 1, "wsd: part of the run in which the rate falls (default: 0.2)");
  real("weight_decay", "D", 0, 1e3, "of AdamW; never on A_log, D, norms and biases (default: 0.1)");
  real("beta1", "B", 0, 0.999999999, "of AdamW (default: 0.9)");
  real("beta2", "B", 0, 0.999999999, "of AdamW (default: 0.95)");
  real("eps", "E", 0, 1, "of AdamW (default: 1e-8)");
  real("grad_clip", "N", 0, 1e30, "largest norm of all gradients together; 0: no limit (default: 1)");
  table.group("Regularisation");
  real("dropout", "P", 0, 0.99, "part of the embeddings and of each block's output that is left out (default: 0)");
  real("average", "D", 0, 0.9999999,
       "evaluate and save an average of the weights over the steps, with this decay, such as 0.998 (default: 0, none)");
  declare_noise(table);
  table.group("Computation");
  choice("dtype", "TYPE", {"float32", "bfloat16"},
         "float32, or bfloat16 for large weights and activations with float32 masters (default: float32)");
  flag("--recompute", "recompute", true, "keep less for the backward pass and compute it again: slower, smaller");
  machine.declare_machine(table);
  table.group("Evaluation and checkpoints");
  integer("eval_every", "N", 0, kMostSteps, "steps between looks at the held-out loss (default: a tenth of the run)");
  integer("eval_windows", "N", 1, kMostSteps, "held-out windows to look at, at most (default: 256)");
  integer("save_every", "N", 0, kMostSteps, "steps between checkpoints (default: a tenth of the run)");
  integer("keep", "K", 1, kMostSteps, "newest checkpoints to keep, beside the best (default: 2)");
}

void TrainingOptions::declare_run(OptionTable& table) {
  table.group("Run");
  table.text("--out", "DIR", &out, "the run's folder: checkpoints, metrics.jsonl, report.html", Offer::kFolders);
  table.flag("--resume", &resume, "go on with the run in --out, exactly as if it had never stopped");
  table.text("--sample-prompt", "TEXT", &sample_prompt, "what the samples in the report begin with");
}

std::filesystem::path TrainingOptions::run_path() const {
  if (!out || out->empty()) {
    throw UsageError("--out is missing: name the folder of the run");
  }
  return *out;
}

train::Settings TrainingOptions::settings(const train::Settings& defaults) const {
  Json merged = defaults.to_json();
  merged.update(given);
  train::Settings settings = train::Settings::from_json(merged, "options");
  const int64_t tenth = std::max<int64_t>(1, settings.steps / 10);
  if (!given.contains("eval_every")) {
    settings.eval_every = tenth;
  }
  if (!given.contains("save_every")) {
    settings.save_every = tenth;
  }
  settings.check_sense();
  return settings;
}

train::Settings TrainingOptions::resumed(const train::Settings& stored) const {
  static const std::set<std::string> may_change = {"steps", "eval_every", "eval_windows", "save_every", "keep"};
  Json merged = stored.to_json();
  for (const auto& [name, value] : given.items()) {
    if (merged[name] != value && may_change.count(name) == 0) {
      throw UsageError(
          fmt::format("--resume: {}, or begin a run in another folder", changed(name, merged[name], value)));
    }
    merged[name] = value;
  }
  train::Settings settings = train::Settings::from_json(merged, "options");
  settings.check_sense();
  return settings;
}

}  // namespace mamba::cli
