#include "mamba/models/peft.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <map>
#include <set>

#include "mamba/base/error.h"
#include "mamba/base/file.h"
#include "mamba/io/checkpoint.h"
#include "mamba/io/dtype.h"
#include "mamba/io/save.h"
#include "mamba/models/checkpoint.h"
#include "mamba/ops/dispatch.h"

namespace mamba::models {

namespace fs = std::filesystem;
namespace mx = mlx::core;

namespace {

// What PEFT's own module adds in front of the model's paths.
constexpr std::string_view kPrefix = "base_model.model.";

// A tensor's name -> the path in LoraParameters. A bare backbone (MambaModel) leaves the first component out.
std::string path_of(const std::string& name) {
  const std::string path = name.starts_with(kPrefix) ? name.substr(kPrefix.size()) : name;
  return path.starts_with("layers.") ? "backbone." + path : path;
}

std::unique_ptr<io::TensorSource> open_weights(const fs::path& directory) {
  std::error_code ignored;
  for (const std::string& name : adapter_file_names()) {
    if (fs::exists(directory / name, ignored)) {
      return io::open_checkpoint(directory / name);
    }
  }
  throw Error(
      fmt::format("{}: holds no weights; looked for {}", directory.string(), fmt::join(adapter_file_names(), ", ")));
}

bool is_float(mx::Dtype dtype) {
  return dtype == mx::float32 || dtype == mx::bfloat16 || dtype == mx::float16;
}

}  // namespace

const std::vector<std::string>& adapter_file_names() {
  static const std::vector<std::string> names = {"adapter_model.safetensors", "adapter_model.bin"};
  return names;
}

LoraConfig load_adapter(MambaLM& model, const fs::path& directory) {
  if (has_lora(model)) {
    throw UsageError("the model has a LoRA adapter already: merge it first");
  }
  LoraConfig config = read_adapter_config(directory);
  std::vector<LoraModule> modules;
  try {
    modules = lora_modules(config, model.config());
  } catch (const UsageError& e) {
    throw ParseError((directory / kAdapterConfig).string(), ParseError::kNoOffset, e.what());
  }
  const auto source = open_weights(directory);
  std::map<std::string, std::string> names;  // path -> tensor's name
  for (const std::string& name : source->names()) {
    const bool added = names.emplace(path_of(name), name).second;
    check(added, "{}: {} and another tensor are the same parameter", source->file(), quote(name));
  }
  const auto take = [&](const std::string& path, const mx::Shape& expected) {
    const auto found = names.find(path);
    check(found != names.end(), "{}: lacks {}{}, which {} asks for", source->file(), kPrefix, path, kAdapterConfig);
    const std::string& name = found->second;
    const io::TensorInfo& info = source->info(name);
    check(info.shape == expected, "{}: {} must be {} for this model and the rank in {} but is {}", source->file(), name,
          ops::shown(expected), kAdapterConfig, ops::shown(info.shape));
    check(is_float(info.dtype), "{}: {} must be float32, bfloat16 or float16 but is {}", source->file(), name,
          io::dtype_name(info.dtype));
    mx::array value = source->load(name);
    names.erase(found);
    return value;
  };
  std::map<std::string, nn::Lora> adapters;
  for (const LoraModule& module : modules) {
    const mx::Shape shape = parameter_shape(module.path + ".weight", model.config());
    nn::Lora lora;
    lora.A = take(module.path + ".lora_A.weight", {module.rank, shape[1]});
    lora.B = take(module.path + ".lora_B.weight", {shape[0], module.rank});
    lora.scale = module.scale;
    adapters.emplace(module.path, std::move(lora));
  }
  check(names.empty(), "{}: holds {}, for which {} has no place", source->file(),
        names.empty() ? "" : quote(names.begin()->second), kAdapterConfig);
  model.visit_linears("", [&](const std::string& path, nn::Linear& layer) {
    if (const auto found = adapters.find(path); found != adapters.end()) {
      layer.lora = found->second;
    }
  });
  return config;
}

void save_adapter(MambaLM& model, const LoraConfig& config, const fs::path& directory) {
  LoraParameters adapter{model};
  std::vector<io::TensorToSave> tensors;
  adapter.visit("", [&](const std::string& path, mx::array& value) {
    tensors.push_back(io::to_save(std::string(kPrefix) + path, value));
  });
  check(!tensors.empty(), "the model has no LoRA adapter to write to {}", directory.string());
  make_directories(directory);
  io::save_safetensors(directory / adapter_file_names().front(), std::move(tensors));
  write_file(directory / kAdapterConfig, adapter_config_text(config));
}

void copy_adapter(const fs::path& from, const fs::path& to) {
  make_directories(to);
  for (const std::string& name : {adapter_file_names().front(), std::string(kAdapterConfig)}) {
    write_file(to / name, read_file(from / name));
  }
}

}  // namespace mamba::models
