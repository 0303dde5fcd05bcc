#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "apps/mlx-mamba/command.h"
#include "apps/mlx-mamba/training_run.h"
#include "mamba/base/error.h"
#include "mamba/generate/load.h"
#include "mamba/models/lora.h"
#include "mamba/models/peft.h"
#include "mamba/models/registry.h"

namespace mamba::cli {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;

struct FinetuneArguments {
  TrainingOptions training;
  ModelOptions model;  // --model, --revision
  std::optional<std::string> tokenizer;
  std::optional<int> lora_rank;
  std::optional<double> lora_alpha;
  std::optional<std::string> lora_targets;

  bool gives_model() const {
    return model.model || model.revision || tokenizer || lora_rank || lora_alpha || lora_targets;
  }
};

// Those that Python's peft applies to a Mamba: it refuses out_proj and passes by dt_proj (docs/checkpoints.md).
constexpr const char* kDefaultTargets = "in_proj,x_proj";

std::vector<std::string> separated(const std::string& list) {
  std::vector<std::string> out;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    out.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

// Where the model comes from, in a form that holds wherever the run is resumed.
std::string lasting_name(const std::string& name) {
  std::error_code ignored;
  return fs::is_directory(name, ignored) ? fs::absolute(name).lexically_normal().string() : name;
}

void describe(RunPlan& plan, const FinetuneArguments& o) {
  plan.config["model"] = lasting_name(o.model.name());
  plan.config["revision"] = o.model.revision.value_or("main");
  if (o.lora_rank) {
    plan.config["lora"] = {{"rank", *o.lora_rank},
                           {"alpha", o.lora_alpha.value_or(2.0 * *o.lora_rank)},
                           {"targets", separated(o.lora_targets.value_or(kDefaultTargets))}};
  } else if (o.lora_alpha || o.lora_targets) {
    throw UsageError("--lora-alpha and --lora-targets go with --lora-rank");
  }
}

models::LoraConfig lora_config(const RunPlan& plan) {
  const std::string file = (plan.path / "config.json").string();
  const JsonObject lora(plan.config["lora"], file, "lora.");
  models::LoraConfig config;
  config.rank = static_cast<int>(lora.integer("rank", 1, 1 << 16));
  config.alpha = lora.number_or("alpha", 8, 0, 1e9);
  config.target_modules.names = plan.config["lora"].value("targets", std::vector<std::string>{});
  config.base_model = plan.config.value("model", "");
  return config;
}

int train_all(RunPlan& plan, const generate::Resolved& source) {
  models::MambaLM model = models::load_model(plan.checkpoint.value_or(source.directory), mx::float32);
  return execute(plan, whole_model(plan, model, source.tokenizer));
}

int train_adapter(RunPlan& plan, const generate::Resolved& source) {
  models::LoraConfig lora = lora_config(plan);
  models::MambaLM model = models::load_model(source.directory, models::parse_dtype(plan.settings.dtype));
  if (plan.checkpoint) {
    models::load_adapter(model, *plan.checkpoint);
  } else {
    models::add_lora(model, lora, plan.settings.seed);
  }
  models::LoraParameters adapter{model};
  const fs::path result = plan.path / "adapter";
  return execute(plan, {.model = model,
                        .trainable = train::Trainable::of(adapter),
                        .save = [&](const fs::path& directory,
                                    const nn::ParameterMap&) { models::save_adapter(model, lora, directory); },
                        .after_save = [&] { models::save_adapter(model, lora, result); },
                        .on_step_back = [&](const fs::path& good) { models::copy_adapter(good, result); },
                        .tokenizer = source.tokenizer});
}

int run_finetune(const FinetuneArguments& o) {
  o.training.machine.prepare_machine();
  train::Settings defaults;
  defaults.steps = 300;
  defaults.lr = o.lora_rank ? 1e-3 : 1e-4;
  defaults.batch_size = 1;
  RunPlan plan = plan_run(o.training, "finetune", defaults);
  if (!o.training.resume) {
    describe(plan, o);
  } else if (o.gives_model()) {
    throw UsageError(
        "--resume: the run has its model and adapter: leave --model, --revision, --tokenizer and --lora-* out");
  }
  generate::LoadOptions load = o.model.load_options();
  load.revision = plan.config.value("revision", "main");
  generate::Resolved source = generate::resolve_model(plan.config.value("model", ""), load);
  if (o.training.resume) {
    source.tokenizer = run_tokenizer(plan);
  } else if (o.tokenizer) {
    source.tokenizer = given_tokenizer(*o.tokenizer);
  }
  return plan.config.contains("lora") ? train_adapter(plan, source) : train_all(plan, source);
}

std::function<int()> declare_finetune(OptionTable& table) {
  const auto o = std::make_shared<FinetuneArguments>();
  o->training.declare_data(table);
  table.group("Model");
  o->model.declare_source(table);
  table.text("--tokenizer", "F", &o->tokenizer, "a tokenizer.json (default: the model's)", Offer::kFiles);
  table.group("Adapter");
  table.integer(
      "--lora-rank", "R", [o](int64_t n) { o->lora_rank = static_cast<int>(n); }, 1, 1 << 16,
      "train a low-rank adapter (LoRA) of this rank and leave the model's weights alone");
  table.real(
      "--lora-alpha", "A", [o](double x) { o->lora_alpha = x; }, 0, 1e9,
      "the adapter counts A / R times (default: 2 R)");
  table.text("--lora-targets", "NAMES", &o->lora_targets,
             "layers that get one: in_proj, x_proj, dt_proj, out_proj (default: in_proj,x_proj)");
  o->training.declare_settings(table, {.lr = "0.0001, or 0.001 with --lora-rank", .steps = "300", .batch_size = "1"});
  o->training.declare_run(table);
  return [o] { return run_finetune(*o); };
}

}  // namespace

const Command kFinetune = {
    "finetune", "Adapts a model to data of your own: all of its weights, or a LoRA adapter.",
    "Without --lora-rank all weights are trained, and the checkpoints are whole models. With it the model stays as it "
    "is, and OUT/adapter is an adapter in PEFT's format: generate and score take it by --adapter, merge folds it in. "
    "Of .jsonl lines with prompt and completion, or with messages, the loss is taken on the answers alone.",
    "  mlx-mamba finetune --model state-spaces/mamba-130m --data notes/ --lora-rank 8 --out run\n"
    "  mlx-mamba generate --model state-spaces/mamba-130m --adapter run/adapter --prompt \"Dear\"\n"
    "  mlx-mamba finetune --data answers.jsonl --steps 500 --out run\n",
    declare_finetune};

}  // namespace mamba::cli
