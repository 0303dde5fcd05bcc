#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "apps/mlx-mamba/command.h"
#include "apps/mlx-mamba/console.h"
#include "apps/mlx-mamba/json_output.h"
#include "apps/mlx-mamba/model_options.h"
#include "mamba/models/registry.h"
#include "mamba/models/state.h"
#include "mamba/text/tokenizer.h"

namespace mamba::cli {
namespace {

namespace fs = std::filesystem;

struct InfoArguments {
  ModelOptions model;
  bool json = false;
};

struct File {
  std::string path;
  uint64_t bytes;
};

std::vector<File> files_of(const generate::Resolved& source) {
  std::vector<File> files;
  for (const auto& entry : fs::directory_iterator(source.directory)) {
    std::error_code error;
    if (entry.is_regular_file(error)) {  // a link of the hub's cache counts as the file that it leads to
      files.push_back({entry.path().string(), static_cast<uint64_t>(fs::file_size(entry.path(), error))});
    }
  }
  std::sort(files.begin(), files.end(), [](const File& a, const File& b) { return a.path < b.path; });
  if (!source.tokenizer.empty() && source.tokenizer.parent_path() != source.directory) {
    files.push_back({source.tokenizer.string(), static_cast<uint64_t>(fs::file_size(source.tokenizer))});
  }
  return files;
}

OrderedJson describe(const generate::LoadedModel& loaded, const std::string& name) {
  const models::Config& c = loaded.model.config();
  OrderedJson files = OrderedJson::array();
  for (const File& file : files_of(loaded.source)) {
    files.push_back({{"path", file.path}, {"bytes", file.bytes}});
  }
  OrderedJson out = {{"name", name}, {"directory", loaded.source.directory.string()}};
  out["repository"] = loaded.source.repository.empty() ? OrderedJson() : OrderedJson(loaded.source.repository);
  out["commit"] = loaded.source.commit.empty() ? OrderedJson() : OrderedJson(loaded.source.commit);
  out["model_type"] = "mamba";
  out["parameters"] = c.parameter_count();
  out["dtype"] = models::dtype_name(loaded.model.dtype());
  out["bits"] = OrderedJson();
  out["group_size"] = OrderedJson();
  if (c.quantization) {
    out["bits"] = c.quantization->common.bits;
    out["group_size"] = c.quantization->common.group_size;
  }
  out["n_layer"] = c.n_layer;
  out["d_model"] = c.d_model;
  out["d_inner"] = c.d_inner;
  out["d_state"] = c.d_state;
  out["d_conv"] = c.d_conv;
  out["dt_rank"] = c.dt_rank;
  out["vocab_size"] = c.vocab_size;
  out["tie_embeddings"] = c.tie_embeddings;
  out["residual_in_fp32"] = c.residual_in_fp32;
  out["eos_token_ids"] = c.eos_token_ids;
  out["state_bytes_per_sequence"] = models::State::zeros(c, 1, loaded.model.dtype()).bytes();
  out["tokenizer"] = loaded.source.tokenizer.empty() ? OrderedJson() : OrderedJson(loaded.source.tokenizer.string());
  out["tokenizer_vocab_size"] = loaded.tokenizer ? OrderedJson(loaded.tokenizer->vocab_size()) : OrderedJson();
  out["files"] = std::move(files);
  return out;
}

std::string text_of(const OrderedJson& value) {
  return value.is_string() ? value.get<std::string>() : printable_json(value);
}

void print_lines(const OrderedJson& info) {
  std::string out;
  for (const auto& [key, value] : info.items()) {
    if (key == "files" || value.is_null()) {
      continue;
    }
    std::string label = key;
    std::replace(label.begin(), label.end(), '_', ' ');
    out += fmt::format("{:<26}{}\n", label + ":", text_of(value));
  }
  out += "files:\n";
  for (const OrderedJson& file : info["files"]) {
    out += fmt::format("{:>14} bytes  {}\n", file["bytes"].get<uint64_t>(), file["path"].get<std::string>());
  }
  put(out);
}

int run_info(const InfoArguments& o) {
  const generate::LoadedModel loaded =
      o.model.load(ModelOptions::TokenizerIs::kWanted, ModelOptions::WeightsAre::kLookedAt);
  const OrderedJson info = describe(loaded, o.model.name());
  if (o.json) {
    put(json_line(info));
  } else {
    print_lines(info);
  }
  return 0;
}

std::function<int()> declare_info(OptionTable& table) {
  const auto o = std::make_shared<InfoArguments>();
  o->model.declare_source(table);
  table.flag("--json", &o->json, "one line of JSON");
  return [o] { return run_info(*o); };
}

}  // namespace

const Command kInfo = {"info", "Shows a model's sizes, precision, parameters, and where its files are.", "",
                       "  mlx-mamba info\n"
                       "  mlx-mamba info --model state-spaces/mamba-130m --json\n",
                       declare_info};

}  // namespace mamba::cli
