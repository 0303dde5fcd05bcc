#include "mamba/models/checkpoint.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <map>
#include <set>

#include "mamba/base/error.h"
#include "mamba/io/dtype.h"
#include "mamba/ops/dispatch.h"

namespace mamba::models {

namespace mx = mlx::core;

namespace {

constexpr const char* kHead = "lm_head.weight";

bool is_float(mx::Dtype dtype) {
  return dtype == mx::float32 || dtype == mx::bfloat16 || dtype == mx::float16;
}

// mlx-lm stores the convolution as (D, K, 1) where PyTorch has (D, 1, K).
bool is_channels_last_conv(const std::string& path, const mx::Shape& expected, const mx::Shape& got) {
  return path.ends_with("conv1d.weight") && got == mx::Shape{expected[0], expected[2], 1};
}

// The dtype that a tensor of `stored` has in memory or in a new file when the model's weights shall be `wanted`. Kept
// tensors go to float32: it holds all of either 16-bit type, and the ops take it beside both.
mx::Dtype target_dtype(const std::string& path, mx::Dtype stored, std::optional<mx::Dtype> wanted) {
  if (!wanted) {
    return stored;
  }
  return keeps_precision(path) && stored != *wanted ? mx::float32 : *wanted;
}

std::string list_of(const std::vector<std::string>& names) {
  constexpr size_t kShown = 3;
  const std::vector<std::string> first(names.begin(), names.begin() + std::min(names.size(), kShown));
  std::string out = fmt::format("{}", fmt::join(first, ", "));
  return names.size() > kShown ? fmt::format("{} and {} more", out, names.size() - kShown) : out;
}

}  // namespace

std::string parameter_path(const std::string& tensor_name) {
  std::string path = tensor_name;
  if (path != kHead && !path.starts_with("backbone.")) {
    path = "backbone." + path;
  }
  return path == "backbone.embedding.weight" ? "backbone.embeddings.weight" : path;
}

mx::Shape parameter_shape(const std::string& path, const Config& config) {
  const int d = config.d_model;
  const int inner = config.d_inner;
  const int n = config.d_state;
  const int rank = config.dt_rank;
  const std::map<std::string, mx::Shape> of_layer = {
      {"norm.weight", {d}},
      {"mixer.A_log", {inner, n}},
      {"mixer.D", {inner}},
      {"mixer.in_proj.weight", {2 * inner, d}},
      {"mixer.in_proj.bias", {2 * inner}},
      {"mixer.conv1d.weight", {inner, 1, config.d_conv}},
      {"mixer.conv1d.bias", {inner}},
      {"mixer.x_proj.weight", {rank + 2 * n, inner}},
      {"mixer.dt_proj.weight", {inner, rank}},
      {"mixer.dt_proj.bias", {inner}},
      {"mixer.out_proj.weight", {d, inner}},
      {"mixer.out_proj.bias", {d}},
  };
  if (path == "backbone.embeddings.weight" || path == kHead) {
    return {config.vocab_size, d};
  }
  if (path == "backbone.norm_f.weight") {
    return {d};
  }
  const std::string prefix = "backbone.layers.";
  const size_t dot = path.find('.', prefix.size());
  const auto found =
      path.starts_with(prefix) && dot != std::string::npos ? of_layer.find(path.substr(dot + 1)) : of_layer.end();
  check(found != of_layer.end(), "{} is no parameter of this model", path);
  return found->second;
}

bool keeps_precision(const std::string& path) {
  return path.ends_with(".A_log") || path.ends_with(".D") || path.ends_with(".bias") ||
         path.find("norm") != std::string::npos || path.find("conv1d") != std::string::npos;
}

void load_parameters(const io::TensorSource& source, MambaLM& model, std::optional<mx::Dtype> dtype) {
  std::map<std::string, std::string> names;  // path -> tensor's name
  for (const std::string& name : source.names()) {
    const bool added = names.emplace(parameter_path(name), name).second;
    check(added, "{}: {} and another tensor are the same parameter", source.file(), quote(name));
  }
  std::vector<std::string> missing;
  model.visit("", [&](const std::string& path, mx::array&) {
    if (names.count(path) == 0) {
      missing.push_back(path);
    }
  });
  check(missing.empty(), "{}: lacks {}, which the configuration asks for", source.file(), list_of(missing));
  std::vector<mx::array> converted;
  model.visit("", [&](const std::string& path, mx::array& value) {
    const auto node = names.extract(path);
    const std::string& name = node.mapped();
    const io::TensorInfo& info = source.info(name);
    const mx::Shape expected = parameter_shape(path, model.config());
    check(info.shape == expected || is_channels_last_conv(path, expected, info.shape),
          "{}: {} must be {} for this configuration but is {}", source.file(), name, ops::shown(expected),
          ops::shown(info.shape));
    check(is_float(info.dtype), "{}: {} must be float32, bfloat16 or float16 but is {}", source.file(), name,
          io::dtype_name(info.dtype));
    value = source.load(name);
    if (info.shape != expected) {
      value = mx::contiguous(mx::reshape(value, expected));
    }
    if (const mx::Dtype target = target_dtype(path, value.dtype(), dtype); target != value.dtype()) {
      value = mx::astype(value, target);
      mx::eval(value);  // one by one, so that no more than one tensor exists in both dtypes
    }
  });
  // A tied head may be stored as well; what it holds is the embedding.
  if (model.config().tie_embeddings) {
    names.erase(kHead);
  }
  std::vector<std::string> superfluous;
  for (const auto& [path, name] : names) {
    superfluous.push_back(name);
  }
  check(superfluous.empty(), "{}: holds {}, for which this configuration has no place", source.file(),
        list_of(superfluous));
}

std::vector<io::TensorToSave> parameters_to_save(MambaLM& model, std::optional<mx::Dtype> dtype) {
  std::vector<io::TensorToSave> out;
  model.visit("", [&](const std::string& path, mx::array& value) {
    const mx::Dtype stored = target_dtype(path, value.dtype(), dtype);
    out.push_back({path, stored, value.shape(), [value, stored] { return mx::astype(value, stored); }});
  });
  return out;
}

}  // namespace mamba::models
