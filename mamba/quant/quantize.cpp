#include "mamba/quant/quantize.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "mamba/base/error.h"
#include "mamba/models/module_names.h"
#include "mamba/ops/quantized_linear/quantized_linear.h"

namespace mamba::quant {

namespace mx = mlx::core;

namespace {

constexpr const char* kEmbeddings = "backbone.embeddings";
constexpr const char* kHead = "lm_head";

void check_settings(const Settings& settings) {
  if (settings.bits != 4 && settings.bits != 8) {
    throw UsageError(fmt::format("weights can be quantised to 8 or 4 bits, not to {}", settings.bits));
  }
  if (settings.group_size != 32 && settings.group_size != 64 && settings.group_size != 128) {
    throw UsageError(fmt::format("the group size must be 32, 64 or 128 but is {}", settings.group_size));
  }
}

// A name of `keep` means this matrix.
bool means(const std::string& name, const std::string& path, bool tied) {
  return models::names_module(name, path) || (tied && name == kHead && path == kEmbeddings);
}

// What is to be done with each matrix, before anything is.
std::vector<MatrixReport> plan(models::MambaLM& model, const Settings& settings) {
  std::vector<MatrixReport> out;
  const bool tied = model.config().tie_embeddings;
  std::vector<bool> used(settings.keep.size());
  model.visit_matrices("", [&](const std::string& path, nn::Matrix& matrix) {
    MatrixReport report{.path = path,
                        .shape = {matrix.rows(), matrix.columns()},
                        .quantized = true,
                        .reason = {},
                        .bytes_before = matrix.bytes(),
                        .bytes_after = matrix.bytes()};
    if (matrix.columns() % settings.group_size != 0) {
      report.quantized = false;
      report.reason = fmt::format("{} columns are no multiple of {}", matrix.columns(), settings.group_size);
    }
    for (size_t i = 0; i < settings.keep.size(); ++i) {
      if (means(settings.keep[i], path, tied)) {
        used[i] = true;
        report.quantized = false;
        report.reason = "kept";
      }
    }
    out.push_back(std::move(report));
  });
  for (size_t i = 0; i < used.size(); ++i) {
    if (!used[i]) {
      throw UsageError(
          fmt::format("{} is no matrix of this model that could be kept: choose among embeddings, in_proj, x_proj, "
                      "dt_proj, out_proj, lm_head, or name one by its path, such as layers.0.mixer.in_proj",
                      quote(settings.keep[i])));
    }
  }
  if (std::none_of(out.begin(), out.end(), [](const MatrixReport& report) { return report.quantized; })) {
    throw UsageError(fmt::format("nothing to quantise: {} ({})", out.front().path, out.front().reason));
  }
  return out;
}

ops::QuantizedWeight quantized(const mx::array& weight, const Settings& settings) {
  ops::QuantizedWeight out = ops::quantize(weight, settings.group_size, settings.bits);
  if (weight.dtype() == mx::float32) {
    const mx::array scales = mx::astype(out.scales, mx::float16);
    const mx::array biases = mx::astype(out.biases, mx::float16);
    const mx::array fits = mx::logical_and(mx::all(mx::isfinite(scales)), mx::all(mx::isfinite(biases)));
    mx::eval(scales, biases, fits, out.codes);
    if (fits.item<bool>()) {
      out.scales = scales;
      out.biases = biases;
    }
  }
  mx::eval(out.codes, out.scales, out.biases);
  return out;
}

void measure(const mx::array& before, const nn::Matrix& matrix, MatrixReport& report) {
  const mx::array weight = mx::astype(before, mx::float32);
  const mx::array error = mx::subtract(matrix.dense(mx::float32), weight);
  const auto mean_square = [](const mx::array& a) { return mx::mean(mx::square(a)); };
  const double size = mean_square(weight).item<float>();
  report.relative_error = size > 0 ? std::sqrt(mean_square(error).item<float>() / size) : 0;
  report.largest_error = mx::max(mx::abs(error)).item<float>();
}

uint64_t parameter_bytes(models::MambaLM& model) {
  uint64_t bytes = 0;
  model.visit("", [&](const std::string&, mx::array& value) { bytes += value.nbytes(); });
  return bytes;
}

}  // namespace

Report quantize(models::MambaLM& model, const Settings& settings, const ProgressFn& progress) {
  check_settings(settings);
  if (model.is_quantized()) {
    throw UsageError("the model is quantised already: start from the one with float weights");
  }
  const mx::Dtype dtype = model.dtype();
  Report report{.matrices = plan(model, settings), .bytes_before = parameter_bytes(model), .bytes_after = 0};
  Progress state{.what = "quantising", .total = static_cast<int64_t>(report.matrices.size()), .unit = "matrices"};
  auto next = report.matrices.begin();
  model.visit_matrices("", [&](const std::string&, nn::Matrix& matrix) {
    MatrixReport& entry = *next++;
    if (entry.quantized) {
      const mx::array before = matrix.weight;
      matrix.set_parts(quantized(before, settings));
      entry.bytes_after = matrix.bytes();
      if (settings.measure_errors) {
        measure(before, matrix, entry);
      }
    }
    state.done += 1;
    state.finished = state.done == state.total;
    if (progress) {
      progress(state);
    }
  });
  model.set_quantization(models::QuantizationConfig{.common = {settings.group_size, settings.bits}});
  model.set_dtype(dtype);
  report.bytes_after = parameter_bytes(model);
  model.prepare();
  return report;
}

std::string summary(const Report& report, const Settings& settings) {
  // Each reason with the last names of the modules it concerns.
  std::map<std::string, std::map<std::string, int>> kept;
  size_t quantized = 0;
  for (const MatrixReport& matrix : report.matrices) {
    if (matrix.quantized) {
      ++quantized;
    } else {
      ++kept[matrix.reason][matrix.path.substr(matrix.path.rfind('.') + 1)];
    }
  }
  std::string out = fmt::format("{} of {} matrices to {} bits in groups of {}", quantized, report.matrices.size(),
                                settings.bits, settings.group_size);
  for (const auto& [reason, names] : kept) {
    for (const auto& [name, count] : names) {
      out += fmt::format("; {} stays float ({}{})", name, reason, count > 1 ? fmt::format(", {} matrices", count) : "");
    }
  }
  return out;
}

}  // namespace mamba::quant
