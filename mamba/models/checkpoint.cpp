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

// What a stored parameter must be.
struct Expected {
  mx::Shape shape;
  bool codes = false;  // uint32, not floats
};

Quantization told_by_shapes(const io::TensorSource& source, const std::map<std::string, std::string>& names,
                            const std::string& path, int64_t columns) {
  const auto last_axis = [&](const char* part) -> int64_t {
    const auto name = names.find(path + part);
    const mx::Shape shape = name == names.end() ? mx::Shape{} : source.info(name->second).shape;
    return shape.size() == 2 ? std::max(shape[1], 1) : 1;
  };
  return {.group_size = static_cast<int>(columns / last_axis(".scales")),
          .bits = static_cast<int>(last_axis(".weight") * 32 / columns)};
}

// Makes those matrices of `model` quantised ones, still without values, that configuration and file say are, and
// returns what the parts of these must be. `names`: path -> tensor's name.
std::map<std::string, Expected> prepare_matrices(const io::TensorSource& source,
                                                 const std::map<std::string, std::string>& names, MambaLM& model) {
  std::map<std::string, Expected> parts;
  std::optional<QuantizationConfig> quantization = model.config().quantization;
  model.visit_matrices("", [&](const std::string& path, nn::Matrix& matrix) {
    matrix.quantized.reset();
    const bool has_scales = names.count(path + ".scales") != 0;
    check(quantization || !has_scales,
          "{}: holds {}.scales, so its weights are quantised, but config.json has no field \"quantization\"",
          source.file(), path);
    if (!quantization) {
      return;
    }
    const mx::Shape shape = parameter_shape(path + ".weight", model.config());
    std::optional<Quantization> q;
    if (const auto exception = quantization->modules.find(path); exception != quantization->modules.end()) {
      q = exception->second;
    } else if (has_scales) {
      q = told_by_shapes(source, names, path, shape[1]);
      if (*q != quantization->common) {
        quantization->modules[path] = q;
      }
    }
    if (!q) {
      return;
    }
    const bool known =
        (q->bits == 4 || q->bits == 8) && (q->group_size == 32 || q->group_size == 64 || q->group_size == 128);
    check(known && shape[1] % q->group_size == 0,
          "{}: {} is quantised to {} bits in groups of {}, which is not supported for {} columns: bits may be 4 or 8, "
          "groups 32, 64 or 128",
          source.file(), path, q->bits, q->group_size, shape[1]);
    matrix.quantized = nn::Matrix::Quantized{.group_size = q->group_size, .bits = q->bits};
    parts[path + ".weight"] = {.shape = {shape[0], shape[1] * q->bits / 32}, .codes = true};
    parts[path + ".scales"] = parts[path + ".biases"] = {.shape = {shape[0], shape[1] / q->group_size}};
  });
  model.set_quantization(std::move(quantization));
  return parts;
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
  if (!path.starts_with("lm_head.") && !path.starts_with("backbone.")) {
    path = "backbone." + path;
  }
  const std::string singular = "backbone.embedding.";
  return path.starts_with(singular) ? "backbone.embeddings." + path.substr(singular.size()) : path;
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
  const std::map<std::string, Expected> parts = prepare_matrices(source, names, model);
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
    const auto part = parts.find(path);
    const Expected wanted = part == parts.end() ? Expected{parameter_shape(path, model.config())} : part->second;
    const mx::Shape& expected = wanted.shape;
    check(info.shape == expected || is_channels_last_conv(path, expected, info.shape),
          "{}: {} must be {} for this configuration but is {}", source.file(), name, ops::shown(expected),
          ops::shown(info.shape));
    check(wanted.codes ? info.dtype == mx::uint32 : is_float(info.dtype), "{}: {} must be {} but is {}", source.file(),
          name, wanted.codes ? "uint32, the codes of quantised weights," : "float32, bfloat16 or float16",
          io::dtype_name(info.dtype));
    value = source.load(name);
    if (part != parts.end()) {
      return;  // a quantised matrix stays as it is stored, and where
    }
    if (info.shape != expected) {
      value = mx::contiguous(mx::reshape(value, expected));
    }
    if (const mx::Dtype target = target_dtype(path, value.dtype(), dtype); target != value.dtype()) {
      value = mx::astype(value, target);
      mx::eval(value);  // one by one, so that no more than one tensor exists in both dtypes
    }
  });
  model.visit_matrices("", [&](const std::string& path, nn::Matrix& matrix) {
    check(!matrix.quantized || matrix.quantized->scales.dtype() == matrix.quantized->biases.dtype(),
          "{}: {}.scales and {}.biases must have the same dtype", source.file(), path, path);
  });
  if (model.is_quantized()) {
    model.set_dtype(dtype.value_or(*io::dtype_of_name(model.config().quantization->dtype)));
  }
  // A tied head may be stored as well; what it holds is the embedding.
  if (model.config().tie_embeddings) {
    for (const char* tied_part : {kHead, "lm_head.scales", "lm_head.biases"}) {
      names.erase(tied_part);
    }
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
  std::set<std::string> parts;
  model.visit_matrices("", [&](const std::string& path, nn::Matrix& matrix) {
    if (matrix.quantized) {
      parts.insert({path + ".weight", path + ".scales", path + ".biases"});
    }
  });
  model.visit("", [&](const std::string& path, mx::array& value) {
    const mx::Dtype stored = parts.count(path) != 0 ? value.dtype() : target_dtype(path, value.dtype(), dtype);
    out.push_back({path, stored, value.shape(), [value, stored] { return mx::astype(value, stored); }});
  });
  return out;
}

}  // namespace mamba::models
