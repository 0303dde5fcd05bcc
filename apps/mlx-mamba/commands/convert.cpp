#include <filesystem>
#include <memory>
#include <string>

#include "apps/mlx-mamba/command.h"
#include "apps/mlx-mamba/console.h"
#include "apps/mlx-mamba/model_options.h"
#include "apps/mlx-mamba/output_folder.h"

namespace mamba::cli {
namespace {

struct ConvertArguments {
  ModelOptions model;
  std::optional<std::string> out;
};

int run_convert(const ConvertArguments& o) {
  const std::filesystem::path out = output_folder(o.out, "convert");
  const generate::LoadOptions load = o.model.load_options();
  const generate::Resolved source = o.model.resolve();
  check_other_folder(out, source.directory, "model");
  generate::convert(source, out, load.dtype, load.progress);
  return 0;
}

std::function<int()> declare_convert(OptionTable& table) {
  const auto o = std::make_shared<ConvertArguments>();
  o->model.declare_source(table);
  table.text("--out", "DIR", &o->out, "folder to write; made when it is missing", Offer::kFolders);
  o->model.declare_dtype(table);
  return [o] { return run_convert(*o); };
}

}  // namespace

const Command kConvert = {
    "convert", "Writes any readable checkpoint in Hugging Face's layout, with its tokenizer.",
    "Reads safetensors and PyTorch's pytorch_model.bin, single and sharded, with Hugging Face's or state-spaces' "
    "configuration. What it writes opens in transformers. config.json comes last, so a folder that has one is whole.",
    "  mlx-mamba convert --model state-spaces/mamba-130m --out mamba-130m\n"
    "  mlx-mamba convert --model mamba-130m --dtype bfloat16 --out mamba-130m-bf16\n",
    declare_convert};

}  // namespace mamba::cli
