#include <filesystem>
#include <memory>
#include <string>

#include "apps/mlx-mamba/command.h"
#include "apps/mlx-mamba/model_options.h"
#include "apps/mlx-mamba/output_folder.h"
#include "mamba/base/error.h"
#include "mamba/generate/adapter.h"

namespace mamba::cli {
namespace {

struct MergeArguments {
  ModelOptions model;
  std::optional<std::string> out;
};

int run_merge(const MergeArguments& o) {
  const std::filesystem::path out = output_folder(o.out, "merge");
  if (!o.model.adapter) {
    throw UsageError("--adapter is missing: name the adapter to fold in (see mlx-mamba merge --help)");
  }
  const std::optional<generate::Adapter> adapter = o.model.find_adapter();
  const generate::LoadOptions load = o.model.load_options(adapter);
  const generate::Resolved source = o.model.resolve(adapter);
  check_other_folder(out, source.directory, "model");
  check_other_folder(out, adapter->directory, "adapter");
  generate::merge(source, *adapter, out, load.dtype, load.progress);
  return 0;
}

std::function<int()> declare_merge(OptionTable& table) {
  const auto o = std::make_shared<MergeArguments>();
  o->model.declare_source(table);
  o->model.declare_adapter(table);
  table.text("--out", "DIR", &o->out, "folder to write; made when it is missing", Offer::kFolders);
  o->model.declare_dtype(table);
  return [o] { return run_merge(*o); };
}

}  // namespace

const Command kMerge = {
    "merge", "Folds a LoRA adapter into a model's weights.",
    "The result is a model as convert writes it, which computes what model and adapter compute together. Without "
    "--model the adapter goes into the model that it was made for.",
    "  mlx-mamba merge --adapter run/adapter --out merged\n"
    "  mlx-mamba merge --model state-spaces/mamba-130m --adapter ./adapter --out merged --dtype bfloat16\n",
    declare_merge};

}  // namespace mamba::cli
