#include <mlx/device.h>
#include <mlx/memory.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "apps/mlx-mamba/command.h"
#include "apps/mlx-mamba/console.h"
#include "apps/mlx-mamba/json_output.h"
#include "apps/mlx-mamba/model_options.h"
#include "apps/mlx-mamba/quantize_options.h"
#include "mamba/base/error.h"
#include "mamba/base/memory.h"
#include "mamba/base/threads.h"
#include "mamba/generate/benchmark.h"
#include "mamba/generate/limits.h"
#include "mamba/models/checkpoint.h"
#include "mamba/models/random_weights.h"
#include "mamba/models/registry.h"
#include "mamba/models/shapes.h"

namespace mamba::cli {
namespace {

namespace mx = mlx::core;

struct BenchArguments {
  ModelOptions model;
  std::optional<std::string> shape;
  QuantizeOptions quantize;
  generate::BenchmarkSettings settings;
  bool json = false;
};

bool on_gpu() {
  return mx::default_device() == mx::Device(mx::Device::gpu);
}

// What holds the weights and what is computed: the device's own memory where there is one.
uint64_t peak_memory() {
  return on_gpu() ? mx::get_peak_memory() : peak_memory_bytes();
}

struct Measured {
  std::string model;
  std::string dtype;
  int bits = 0;
  double load_seconds = 0;
  uint64_t peak_memory = 0;
  uint64_t weights = 0;
  generate::Work prompt_work, generation_work;
  generate::Speeds speeds;
  double bytes_per_second = 0;       // the machine's
  double operations_per_second = 0;  // the machine's
};

models::MambaLM random_model(const std::string& shape, mx::Dtype dtype, const QuantizeOptions& quantize) {
  models::Config config = models::published_shape(shape);
  // Codes are made at once: no memory ever holds the floats. Which matrices stay float only quantising itself can tell.
  if (quantize.bits && !quantize.keep) {
    const quant::Settings settings = quantize_settings(*quantize.bits, quantize.group_size, {});
    config.quantization = models::QuantizationConfig{.common = {settings.group_size, settings.bits}};
  }
  models::MambaLM model(config);
  models::load_parameters(*models::random_checkpoint(config, dtype), model, dtype);
  model.prepare();
  return model;
}

models::MambaLM load(const BenchArguments& o) {
  const auto floats = [&] {
    if (!o.shape) {
      return o.model.load(ModelOptions::TokenizerIs::kUnwanted, o.quantize.weights()).model;
    }
    o.model.prepare_machine();
    return random_model(*o.shape, models::parse_dtype(o.model.dtype.value_or("float32")), o.quantize);
  };
  models::MambaLM model = floats();
  if (!o.shape || o.quantize.keep) {
    o.quantize.apply(model);
  }
  return model;
}

int bits_of(const models::MambaLM& model) {
  const auto& quantization = model.config().quantization;
  return quantization ? quantization->common.bits : static_cast<int>(model.dtype().size()) * 8;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// Which limit binds, and how near to it the work was done.
struct Share {
  double fraction = 0;
  bool by_memory = false;
};

Share share_of_limit(const Measured& m, const generate::Work& work, double tokens, const std::vector<double>& speeds) {
  const double reading = work.bytes / m.bytes_per_second;
  const double arithmetic = work.operations / m.operations_per_second;
  return {std::max(reading, arithmetic) / (tokens / median(speeds)), reading > arithmetic};
}

double prompt_tokens(const generate::BenchmarkSettings& s) {
  return static_cast<double>(s.prompt_tokens) * s.sequences;
}
double generated_tokens(const generate::BenchmarkSettings& s) {
  return static_cast<double>(s.generated_tokens) * s.sequences;
}

// A figure, or null for what was not measured.
OrderedJson speed(const std::vector<double>& speeds) {
  return speeds.empty() ? OrderedJson() : OrderedJson(median(speeds));
}

OrderedJson fraction(const Measured& m, const generate::Work& work, double tokens, const std::vector<double>& speeds) {
  return speeds.empty() ? OrderedJson() : OrderedJson(share_of_limit(m, work, tokens, speeds).fraction);
}

OrderedJson to_json(const Measured& m, const generate::BenchmarkSettings& s) {
  return {{"model", m.model},
          {"dtype", m.dtype},
          {"bits", m.bits},
          {"threads", num_threads()},
          {"batch", s.sequences},
          {"prompt_tokens", s.prompt_tokens},
          {"prompt_tokens_per_second", speed(m.speeds.prompt)},
          {"generation_tokens", s.generated_tokens},
          {"generation_tokens_per_second", speed(m.speeds.generation)},
          {"load_seconds", m.load_seconds},
          {"peak_memory_mb", static_cast<double>(m.peak_memory) / 1e6},
          {"prompt_limit_fraction", fraction(m, m.prompt_work, prompt_tokens(s), m.speeds.prompt)},
          {"generation_limit_fraction", fraction(m, m.generation_work, generated_tokens(s), m.speeds.generation)}};
}

std::string row(const char* name, const Measured& m, const generate::Work& work, int64_t count, double tokens,
                const std::vector<double>& speeds) {
  if (speeds.empty()) {
    return "";
  }
  const Share share = share_of_limit(m, work, tokens, speeds);
  const auto [low, high] = std::minmax_element(speeds.begin(), speeds.end());
  const std::string limit = share.by_memory ? fmt::format("{:.1f} GB/s", m.bytes_per_second / 1e9)
                                            : fmt::format("{:.0f} GFLOP/s", m.operations_per_second / 1e9);
  return fmt::format("{:<11}{:>8}{:>12.1f}  {:<20} {:.0f} % of {}\n", name, count, median(speeds),
                     fmt::format("({:.1f}-{:.1f})", *low, *high), 100 * share.fraction, limit);
}

std::string to_table(const Measured& m, const generate::BenchmarkSettings& s) {
  const auto plural = [](int count, const char* word) {
    return fmt::format("{} {}{}", count, word, count == 1 ? "" : "s");
  };
  std::string out =
      fmt::format("{}: {}, {:.0f} MB of weights; {}, {}, {}\n\n", m.model,
                  m.bits < 16 ? fmt::format("{} bits and {}", m.bits, m.dtype) : m.dtype,
                  static_cast<double>(m.weights) / 1e6, on_gpu() ? "on the GPU" : plural(num_threads(), "thread"),
                  plural(s.sequences, "sequence"), plural(s.repeats, "repeat"));
  out += fmt::format("{:<11}{:>8}{:>12}  {:<20} {}\n", "", "tokens", "tokens/s", "range", "of the machine's limit");
  out += row("prompt", m, m.prompt_work, s.prompt_tokens, prompt_tokens(s), m.speeds.prompt);
  out += row("generation", m, m.generation_work, s.generated_tokens, generated_tokens(s), m.speeds.generation);
  return out + fmt::format("\nload: {:.2f} s, peak memory: {:.0f} MB\n", m.load_seconds,
                           static_cast<double>(m.peak_memory) / 1e6);
}

int run_bench(const BenchArguments& o) {
  if (o.shape && o.model.model) {
    throw UsageError("give one of --model and --shape");
  }
  o.quantize.check();
  const generate::BenchmarkSettings& s = o.settings;
  if (s.prompt_tokens == 0 && s.generated_tokens == 0) {
    throw UsageError("nothing is left to measure: give --prompt-tokens or --generate-tokens more than 0");
  }
  Measured m;
  const auto start = std::chrono::steady_clock::now();
  const models::MambaLM model = load(o);
  m.load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  m.model = o.shape ? *o.shape : o.model.name();
  m.dtype = models::dtype_name(model.dtype());
  m.bits = bits_of(model);
  m.weights = generate::weight_bytes(model);
  m.prompt_work = generate::prompt_work(model, s);
  m.generation_work = generate::generation_work(model, s);
  std::optional<generate::ReadingMeter> reading;
  std::optional<generate::ArithmeticMeter> arithmetic;
  std::vector<double> bytes_per_second, operations_per_second;
  const auto measure_limits = [&] {
    if (!reading) {
      m.peak_memory = peak_memory();  // before the meters, which hold memory of their own
      reading.emplace(m.weights);
      arithmetic.emplace(model.dtype());
    }
    bytes_per_second.push_back(reading->measure());
    operations_per_second.push_back(arithmetic->measure());
  };
  m.speeds = generate::measure_speeds(model, s, {.before_step = check_interrupted, .after_pass = measure_limits});
  m.bytes_per_second = median(bytes_per_second);
  m.operations_per_second = median(operations_per_second);
  put(o.json ? json_line(to_json(m, s)) : to_table(m, s));
  return 0;
}

std::function<int()> declare_bench(OptionTable& table) {
  const auto o = std::make_shared<BenchArguments>();
  constexpr int64_t kMost = 1 << 30;
  table.group("Model");
  o->model.declare_source(table);
  table.choice("--shape", "SHAPE", models::shape_names(), &o->shape,
               "random weights of this published size instead, made in memory: 130m, 370m, 790m, 1.4b or 2.8b");
  o->model.declare_dtype(table);
  o->quantize.declare(table);
  o->model.declare_machine(table);
  table.group("Work");
  table.integer(
      "-p,--prompt-tokens", "N", [o](int64_t n) { o->settings.prompt_tokens = n; }, 0, kMost,
      "tokens of each prompt (default: 512; 0 leaves prompts out)");
  table.integer(
      "-n,--generate-tokens", "N", [o](int64_t n) { o->settings.generated_tokens = n; }, 0, kMost,
      "tokens to write after each prompt (default: 128; 0 leaves writing out)");
  table.integer(
      "-b,--batch", "N", [o](int64_t n) { o->settings.sequences = static_cast<int>(n); }, 1, 4096,
      "sequences at once (default: 1)");
  table.integer(
      "--repeat", "R", [o](int64_t n) { o->settings.repeats = static_cast<int>(n); }, 1, 10000,
      "passes to measure; the median counts (default: 5)");
  table.group("Output");
  table.flag("--json", &o->json, "one object on one line");
  return [o] { return run_bench(*o); };
}

}  // namespace

const Command kBench = {
    "bench", "Measures how fast a model reads prompts and writes text.",
    "Speeds are tokens of all sequences per second, medians with their range. Beside each stands how near it comes to "
    "what the machine can do: reading as many bytes as the weights have, or multiplying large matrices, measured "
    "between the passes with the same threads or on the same GPU.",
    "  mlx-mamba bench --shape 130m\n"
    "  mlx-mamba bench --shape 1.4b --dtype bfloat16 -p 512 -n 64 -b 8\n"
    "  mlx-mamba bench --shape 130m --quantize 4\n"
    "  mlx-mamba bench --model state-spaces/mamba-370m --repeat 9 --json\n",
    declare_bench};

}  // namespace mamba::cli
