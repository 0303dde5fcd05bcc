#include "apps/mlx-mamba/training_run.h"

#include <csignal>
#include <utility>

#include "apps/mlx-mamba/console.h"
#include "apps/mlx-mamba/training_progress.h"
#include "mamba/base/error.h"
#include "mamba/base/file.h"
#include "mamba/generate/generator.h"
#include "mamba/io/save.h"
#include "mamba/text/tokenizer_files.h"
#include "mamba/train/data/dataset.h"
#include "mamba/train/report.h"
#include "mamba/train/trainer.h"

namespace mamba::cli {

namespace fs = std::filesystem;

namespace {

constexpr const char* kFormat = "mlx-mamba run 1";
constexpr double kHeldOut = 0.05;
constexpr int64_t kFewestWindowsToSplit = 20;
#ifdef MAMBA_SANITIZED
constexpr int kSampleTokens = 8;  // a test of many runs waits for each of them
#else
constexpr int kSampleTokens = 120;
#endif

// Paths in config.json must hold wherever the run is resumed from.
std::vector<std::string> absolute(const std::vector<std::string>& paths) {
  std::vector<std::string> out;
  for (const std::string& path : paths) {
    out.push_back(path.empty() ? path : fs::absolute(path).lexically_normal().string());
  }
  return out;
}

struct Data {
  train::Windows windows;
  std::optional<train::Windows> held_out;
};

Data open_data(const RunPlan& plan, const Training& training) {
  train::DatasetOptions options{.vocab_size = training.model.config().vocab_size,
                                .tokenizer = training.tokenizer,
                                .progress = progress_reporter()};
  const auto open = [&](const std::vector<std::string>& paths) {
    return train::Windows(train::Dataset::open({paths.begin(), paths.end()}, options), plan.settings.seq_len);
  };
  options.segmentations = plan.segmentations;
  options.bpe_dropout = plan.bpe_dropout;
  train::Windows windows = open(plan.data);
  options.segmentations = 1;
  if (!plan.eval_data.empty()) {
    return {std::move(windows), open(plan.eval_data)};
  }
  double fraction = plan.eval_fraction;
  if (fraction < 0) {
    fraction = plan.settings.shuffle && windows.count() >= kFewestWindowsToSplit ? kHeldOut : 0;
  }
  if (fraction == 0) {
    return {std::move(windows), std::nullopt};
  }
  auto [kept, held_out] = windows.split(fraction, plan.settings.seed);
  return {std::move(kept), std::move(held_out)};
}

Json describe(const Data& data) {
  Json out = {{"windows", data.windows.count()}, {"fingerprint", data.windows.dataset().fingerprint()}};
  if (data.held_out) {
    out["held_out_windows"] = data.held_out->count();
    out["held_out_fingerprint"] = data.held_out->dataset().fingerprint();
  }
  return out;
}

// A resumed run must see what it saw: the place in the data is a number.
void check_same_data(const Json& stored, const Data& data) {
  const Json now = describe(data);
  check(stored == now, "--resume: the data has changed since the run began: there were {} windows, now there are {}{}",
        stored.value("windows", int64_t{0}), data.windows.count(),
        stored.value("windows", int64_t{0}) == data.windows.count() ? " of other tokens" : "");
}

class Sampler {
 public:
  Sampler(const RunPlan& plan, const Training& training) : model_(training.model) {
    if (training.tokenizer.empty()) {
      return;
    }
    tokenizer_ = std::make_unique<text::Tokenizer>(text::Tokenizer::from_file(training.tokenizer));
    prompt_ = plan.sample_prompt;
    request_.prompt = prompt_.empty() ? std::vector<int32_t>{} : tokenizer_->encode(prompt_);
    if (request_.prompt.empty()) {
      const auto start = tokenizer_->token_to_id("<|endoftext|>");
      request_.prompt = {start.value_or(0)};
    }
    request_.sampling = {.temperature = 0.8f, .top_p = 0.95f, .seed = plan.settings.seed};
    request_.max_tokens = kSampleTokens;
  }

  std::optional<train::Sample> sample(int64_t step) const {
    if (!tokenizer_) {
      return std::nullopt;
    }
    const std::vector<generate::Result> results = generate::generate(model_, tokenizer_.get(), {request_});
    return train::Sample{step, prompt_, results.front().text};
  }

 private:
  const models::MambaLM& model_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::string prompt_;
  generate::Request request_;
};

// metrics.jsonl and samples.json, kept at hand for the page that is made of them.
class Report {
 public:
  Report(const train::RunFolder& folder, std::vector<Json> metrics, int64_t step)
      : folder_(folder), metrics_(std::move(metrics)) {
    std::error_code ignored;
    if (!fs::exists(samples_path(), ignored)) {
      return;
    }
    for (const Json& sample : read_json(samples_path())) {
      if (sample.value("step", step + 1) <= step) {
        samples_.push_back({sample.value("step", int64_t{0}), sample.value("prompt", ""), sample.value("text", "")});
      }
    }
  }

  void add(const train::StepReport& report) { metrics_.push_back(report.to_json()); }

  void add(train::Sample sample) {
    samples_.push_back(std::move(sample));
    Json list = Json::array();
    for (const train::Sample& s : samples_) {
      list.push_back({{"step", s.step}, {"prompt", s.prompt}, {"text", s.text}});
    }
    write_file(samples_path(), json_text(list, 2) + "\n");
  }

  void write() const {
    const std::string title = fs::absolute(folder_.path()).lexically_normal().filename().string();
    write_file(folder_.path() / "report.html",
               train::report_html("Training run " + title, folder_.config(), metrics_, samples_));
  }

 private:
  fs::path samples_path() const { return folder_.path() / "samples.json"; }

  const train::RunFolder& folder_;
  std::vector<Json> metrics_;
  std::vector<train::Sample> samples_;
};

train::RunFolder start_folder(RunPlan& plan, const Training& training, const Data& data) {
  plan.config["format"] = kFormat;
  plan.config["version"] = MAMBA_VERSION;
  plan.config["command"] = plan.command;
  plan.config["settings"] = plan.settings.to_json();
  plan.config["data"] = plan.data;
  plan.config["eval_data"] = plan.eval_data;
  plan.config["eval_fraction"] = plan.eval_fraction;
  plan.config["bpe_dropout"] = plan.bpe_dropout;
  plan.config["segmentations"] = plan.segmentations;
  plan.config["sample_prompt"] = plan.sample_prompt;
  plan.config["data_size"] = describe(data);
  plan.config["trainable_parameters"] = [&] {
    int64_t count = 0;
    training.trainable.visit("",
                             [&](const std::string&, mlx::core::array& a) { count += static_cast<int64_t>(a.size()); });
    return count;
  }();
  if (plan.folder) {
    check_same_data(plan.folder->config().value("data_size", Json::object()), data);
    plan.folder->write_config(plan.config);
    return std::move(*plan.folder);
  }
  // config.json, which makes the folder a run, comes after what resuming it needs.
  if (!training.tokenizer.empty()) {
    const fs::path directory = plan.path / "tokenizer";
    make_directories(directory);
    text::copy_tokenizer_files(training.tokenizer, directory);
  }
  return train::RunFolder::create(plan.path, plan.config);
}

}  // namespace

RunPlan plan_run(const TrainingOptions& o, const std::string& command, const train::Settings& defaults) {
  RunPlan plan;
  plan.path = o.run_path();
  plan.command = command;
  if (!o.resume) {
    if (o.data.empty()) {
      throw UsageError("--data is missing: name the files or folders to train on");
    }
    train::RunFolder::check_free(plan.path);
    plan.settings = o.settings(defaults);
    plan.data = absolute(o.data);
    plan.eval_data = absolute(o.eval_data);
    plan.eval_fraction = o.eval_fraction.value_or(-1);
    plan.sample_prompt = o.sample_prompt.value_or("");
    plan.bpe_dropout = o.bpe_dropout.value_or(0);
    plan.segmentations = o.segmentations.value_or(plan.bpe_dropout > 0 ? 8 : 1);
    if (plan.segmentations > 1 && plan.eval_data.empty() && plan.eval_fraction != 0) {
      throw UsageError(
          "--bpe-dropout repeats the data, so no part of it is held out: name --eval-data, or give "
          "--eval-fraction 0");
    }
    if (plan.segmentations > 1 && plan.settings.shuffle && !plan.settings.carry_state) {
      plan.settings.plain_share = o.given.value("plain_share", 0.25);
      plan.settings.plain_end = o.given.value("plain_end", 0.15);
    } else if (o.given.contains("plain_share") || o.given.contains("plain_end")) {
      throw UsageError(
          "--plain-share and --plain-end choose among texts that --bpe-dropout cuts in several ways, in shuffled "
          "order");
    }
    return plan;
  }
  plan.folder = train::RunFolder::open(plan.path);
  plan.config = plan.folder->config();
  const std::string file = (plan.path / "config.json").string();
  const JsonObject config(plan.config, file);
  if (config.string_or("format", "") != kFormat) {
    config.fail("is not the config.json of a training run");
  }
  if (config.string("command") != command) {
    throw UsageError(fmt::format("--out {}: is a run of mlx-mamba {}, not of mlx-mamba {}", plan.path.string(),
                                 config.string("command"), command));
  }
  plan.settings = o.resumed(train::Settings::from_json(config.object("settings").json(), file));
  const auto paths = [&](const char* option, const char* name, const std::vector<std::string>& given) {
    std::vector<std::string> stored = plan.config.value(name, std::vector<std::string>{});
    if (!given.empty() && absolute(given) != stored) {
      const std::string was = stored.empty() ? "not given" : fmt::format("{}", fmt::join(stored, " "));
      throw UsageError(fmt::format(
          "--resume: {} was {} when the run began: leave it out, or begin a run in another folder", option, was));
    }
    return stored;
  };
  plan.data = paths("--data", "data", o.data);
  plan.eval_data = paths("--eval-data", "eval_data", o.eval_data);
  plan.eval_fraction = config.number_or("eval_fraction", -1, -1, 0.5);
  if (o.eval_fraction.value_or(plan.eval_fraction) != plan.eval_fraction) {
    throw UsageError("--resume: --eval-fraction must stay as it was when the run began: leave it out");
  }
  plan.sample_prompt = o.sample_prompt.value_or(config.string_or("sample_prompt", ""));
  plan.bpe_dropout = config.number_or("bpe_dropout", 0, 0, 1);
  plan.segmentations = static_cast<int>(config.integer_or("segmentations", 1, 1, 1000));
  if (o.bpe_dropout.value_or(plan.bpe_dropout) != plan.bpe_dropout ||
      o.segmentations.value_or(plan.segmentations) != plan.segmentations) {
    throw UsageError("--resume: --bpe-dropout and --segmentations must stay as they were when the run began");
  }
  if (const auto last = plan.folder->last()) {
    plan.checkpoint = plan.folder->checkpoint_path(*last);
  }
  return plan;
}

fs::path given_tokenizer(const fs::path& path) {
  fs::path file = fs::is_directory(path) ? path / "tokenizer.json" : path;
  if (!fs::exists(file)) {
    throw UsageError(fmt::format("--tokenizer {}: there is no such file", file.string()));
  }
  return file;
}

fs::path run_tokenizer(const RunPlan& plan) {
  const fs::path file = plan.path / "tokenizer" / "tokenizer.json";
  std::error_code ignored;
  return fs::exists(file, ignored) ? file : fs::path();
}

Training whole_model(const RunPlan& plan, models::MambaLM& model, fs::path tokenizer) {
  return {.model = model,
          .trainable = train::Trainable::of(model),
          .save =
              [&plan, config = model.config()](const fs::path& directory, const nn::ParameterMap& parameters) {
                io::save_checkpoint(directory, io::to_save(parameters));
                if (const fs::path kept = run_tokenizer(plan); !kept.empty()) {
                  text::copy_tokenizer_files(kept, directory);
                }
                write_file(directory / "config.json",
                           json_text(models::hugging_face_config(config, "float32"), 2) + "\n");
              },
          .after_save = {},
          .on_step_back = {},
          .tokenizer = std::move(tokenizer)};
}

int execute(RunPlan& plan, Training training) {
  train::check_trainable(training.model);
  const Data data = open_data(plan, training);
  train::RunFolder folder = start_folder(plan, training, data);
  const fs::path kept_tokenizer = training.tokenizer.empty() ? fs::path() : run_tokenizer(plan);
  training.tokenizer = kept_tokenizer;
  const Sampler sampler(plan, training);

  const GracefulStop signal("\nmlx-mamba: finishing the step, then saving; once more to end at once\n");
  const train::Settings& s = plan.settings;
  train::Batches batches(data.windows, s.batches());
  std::optional<Report> report;
  std::optional<TrainingProgress> progress;
  std::optional<train::Trainer> trainer;
  train::Hooks hooks;
  hooks.save_model = training.save;
  hooks.should_stop = [&] { return signal.requested(); };
  hooks.on_step = [&](const train::StepReport& step) {
    report->add(step);
    progress->show(step);
  };
  hooks.on_step_back = training.on_step_back;
  hooks.on_checkpoint = [&] {
    if (training.after_save) {
      training.after_save();
    }
    if (!signal.requested()) {
      if (auto sample = sampler.sample(trainer->step())) {
        report->add(std::move(*sample));
      }
    }
    report->write();
  };
  trainer.emplace(training.model, training.trainable, std::move(batches), data.held_out, s, folder, std::move(hooks),
                  plan.checkpoint);
  report.emplace(folder, folder.rewind_metrics(trainer->step()), trainer->step());
  progress.emplace(trainer->step(), s.steps);
  if (trainer->step() >= s.steps) {
    put(fmt::format("{}: all {} steps are done\n", plan.path.string(), s.steps));
    return 0;
  }
  const train::Outcome outcome = trainer->run();
  progress->end();
  if (outcome == train::Outcome::kStopped) {
    put(fmt::format("stopped after step {} of {}: mlx-mamba {} --out {} --resume goes on\n", trainer->step(), s.steps,
                    plan.command, plan.path.string()));
    return 128 + SIGINT;
  }
  put(fmt::format("done: {}\n", (plan.path / "last").string()));
  return 0;
}

}  // namespace mamba::cli
