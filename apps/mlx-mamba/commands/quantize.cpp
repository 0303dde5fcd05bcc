#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/mlx-mamba/command.h"
#include "apps/mlx-mamba/console.h"
#include "apps/mlx-mamba/json_output.h"
#include "apps/mlx-mamba/model_options.h"
#include "apps/mlx-mamba/output_folder.h"
#include "apps/mlx-mamba/prompts.h"
#include "apps/mlx-mamba/quantize_options.h"
#include "mamba/base/error.h"
#include "mamba/generate/score.h"

namespace mamba::cli {
namespace {

struct QuantizeArguments {
  ModelOptions model;
  std::optional<std::string> out;
  std::optional<std::string> bits;
  std::optional<std::string> group_size;
  std::optional<std::string> keep;
  std::optional<std::string> text_file;
  bool json = false;
};

// Of the text that the user named.
struct Perplexity {
  size_t tokens = 0;
  double before = 0;
  double after = 0;

  double change() const { return after / before - 1; }
};

double perplexity(const models::MambaLM& model, const std::vector<int32_t>& ids) {
  return generate::score(model, ids, [](int64_t, int64_t, std::span<const float>) { check_interrupted(); }).perplexity;
}

void print_text(const quant::Report& report, const quant::Settings& settings,
                const std::optional<Perplexity>& perplexity) {
  size_t width = 0;
  for (const quant::MatrixReport& matrix : report.matrices) {
    width = std::max(width, matrix.path.size());
  }
  std::string out =
      fmt::format("{:<{}}  {:>14}  {:>14}  {:>13}\n", "matrix", width, "size", "relative error", "largest error");
  for (const quant::MatrixReport& matrix : report.matrices) {
    out +=
        fmt::format("{:<{}}  {:>14}  ", matrix.path, width, fmt::format("{} x {}", matrix.shape[0], matrix.shape[1]));
    out += matrix.quantized ? fmt::format("{:>14.5f}  {:>13.6f}\n", matrix.relative_error, matrix.largest_error)
                            : fmt::format("float: {}\n", matrix.reason);
  }
  out += quant::summary(report, settings) + "\n";
  out += fmt::format("weights: {:.1f} -> {:.1f} MB\n", static_cast<double>(report.bytes_before) / 1e6,
                     static_cast<double>(report.bytes_after) / 1e6);
  if (perplexity) {
    out += fmt::format("perplexity of {} tokens: {:.4f} -> {:.4f} ({:+.3f} %)\n", perplexity->tokens,
                       perplexity->before, perplexity->after, 100 * perplexity->change());
  }
  put(out);
}

void print_json(const quant::Report& report, const quant::Settings& settings,
                const std::optional<Perplexity>& perplexity) {
  OrderedJson matrices = OrderedJson::array();
  for (const quant::MatrixReport& matrix : report.matrices) {
    OrderedJson entry = {{"name", matrix.path},
                         {"shape", {matrix.shape[0], matrix.shape[1]}},
                         {"quantized", matrix.quantized},
                         {"bytes_before", matrix.bytes_before},
                         {"bytes_after", matrix.bytes_after}};
    if (matrix.quantized) {
      entry["relative_error"] = matrix.relative_error;
      entry["largest_error"] = matrix.largest_error;
    } else {
      entry["reason"] = matrix.reason;
    }
    matrices.push_back(std::move(entry));
  }
  OrderedJson out = {{"bits", settings.bits},
                     {"group_size", settings.group_size},
                     {"bytes_before", report.bytes_before},
                     {"bytes_after", report.bytes_after}};
  if (perplexity) {
    out["text_tokens"] = perplexity->tokens;
    out["perplexity_before"] = perplexity->before;
    out["perplexity_after"] = perplexity->after;
    out["perplexity_change"] = perplexity->change();
  }
  out["matrices"] = std::move(matrices);
  put(json_line(out));
}

int run_quantize(const QuantizeArguments& o) {
  const std::filesystem::path out = output_folder(o.out, "quantize");
  if (!o.bits) {
    throw UsageError("--bits is missing: 8 or 4 (see mlx-mamba quantize --help)");
  }
  quant::Settings settings = quantize_settings(*o.bits, o.group_size, o.keep);
  settings.measure_errors = true;
  std::optional<Prompt> text;
  if (o.text_file) {
    text = Prompt{*o.text_file == "-" ? "standard input" : *o.text_file, read_text(*o.text_file), {}};
  }
  generate::LoadedModel loaded =
      o.model.load(text ? ModelOptions::TokenizerIs::kNeeded : ModelOptions::TokenizerIs::kWanted,
                   ModelOptions::WeightsAre::kLookedAt);
  check_other_folder(out, loaded.source.directory, "model");

  std::vector<int32_t> ids;
  std::optional<Perplexity> change;
  if (text) {
    ids = encode(*text, loaded.tokenizer.get());
    change = Perplexity{.tokens = ids.size(), .before = perplexity(loaded.model, ids), .after = 0};
  }
  const ProgressFn progress = progress_reporter();
  const quant::Report report = quant::quantize(loaded.model, settings, progress);
  if (change) {
    change->after = perplexity(loaded.model, ids);
  }
  generate::save_converted(loaded.model, loaded.model.dtype(), {}, loaded.source, out, progress);
  if (o.json) {
    print_json(report, settings, change);
  } else {
    print_text(report, settings, change);
  }
  return 0;
}

std::function<int()> declare_quantize(OptionTable& table) {
  const auto o = std::make_shared<QuantizeArguments>();
  table.group("Model");
  o->model.declare_source(table);
  table.text("--out", "DIR", &o->out, "folder to write; made when it is missing", Offer::kFolders);
  o->model.declare_dtype(table);
  o->model.declare_machine(table);
  table.group("Weights");
  table.choice("--bits", "BITS", {"8", "4"}, &o->bits, "8 or 4 bits for each weight");
  declare_grouping(table, &o->group_size, &o->keep);
  table.group("Report");
  table.text("--text-file", "FILE", &o->text_file, "tell how the perplexity of this text changes; - is standard input",
             Offer::kFiles);
  table.flag("--json", &o->json, "the report in one line of JSON");
  return [o] { return run_quantize(*o); };
}

}  // namespace

const Command kQuantize = {
    "quantize", "Stores a model's weights in 8 or 4 bits.",
    "Writes MLX's affine format in mlx-lm's layout, so the result opens there, too. Embeddings, projections and the "
    "output layer are quantised; convolution, A_log, D, norms, biases, and matrices whose columns the group size does "
    "not divide stay float. Reports each matrix's error: the root mean square as a fraction of its weights' own, and "
    "the largest. --dtype is that of scales and what stays float (default: as stored, scales of float32 in float16).",
    "  mlx-mamba quantize --bits 8 --out shakespeare-8bit\n"
    "  mlx-mamba quantize --model state-spaces/mamba-130m --bits 4 --keep lm_head --out mamba-130m-4bit\n"
    "  mlx-mamba quantize --bits 4 --out shakespeare-4bit --text-file held-out.txt --json\n",
    declare_quantize};

}  // namespace mamba::cli
