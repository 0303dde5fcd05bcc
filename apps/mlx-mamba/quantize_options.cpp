#include "apps/mlx-mamba/quantize_options.h"

#include <sstream>

#include "apps/mlx-mamba/console.h"
#include "mamba/base/error.h"

namespace mamba::cli {

void declare_grouping(OptionTable& options, std::optional<std::string>* group_size, std::optional<std::string>* keep) {
  options.choice("--group-size", "N", {"32", "64", "128"}, group_size,
                 "weights that share a scale: 32, 64 or 128 (default: 64)");
  options.text("--keep", "NAMES", keep,
               "matrices that stay float: embeddings, in_proj, lm_head, ..., with commas between");
}

quant::Settings quantize_settings(const std::string& bits, const std::optional<std::string>& group_size,
                                  const std::optional<std::string>& keep) {
  quant::Settings settings;
  settings.bits = std::stoi(bits);
  if (group_size) {
    settings.group_size = std::stoi(*group_size);
  }
  if (keep) {
    std::istringstream names(*keep);
    for (std::string name; std::getline(names, name, ',');) {
      settings.keep.push_back(name);
    }
    if (settings.keep.empty()) {
      throw UsageError("--keep must not be empty: name matrices, such as lm_head,x_proj");
    }
  }
  return settings;
}

void QuantizeOptions::declare(OptionTable& options) {
  options.choice("--quantize", "BITS", {"8", "4"}, &bits, "quantise the weights to 8 or 4 bits before use");
  declare_grouping(options, &group_size, &keep);
}

void QuantizeOptions::check() const {
  if (!bits && (group_size || keep)) {
    throw UsageError(fmt::format("{} goes with --quantize", group_size ? "--group-size" : "--keep"));
  }
}

std::string QuantizeOptions::apply(models::MambaLM& model) const {
  if (!bits) {
    return {};
  }
  const quant::Settings settings = quantize_settings(*bits, group_size, keep);
  return quant::summary(quant::quantize(model, settings, progress_reporter()), settings);
}

}  // namespace mamba::cli
