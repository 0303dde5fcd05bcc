#include <fmt/format.h>
#include <mlx/memory.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/stream.h>
#include <mlx/transforms.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <tuple>
#include <vector>

#include "mamba/generate/batch.h"
#include "mamba/generate/generator.h"
#include "mamba/models/initialize.h"
#include "mamba/ops/choose_token/choose_token.h"
#include "mamba/ops/global_norm/global_norm.h"
#include "mamba/ops/selective_scan/selective_scan.h"
#include "mamba/train/objective.h"
#include "mamba/train/optimizer.h"
#include "mamba/train/sender.h"
#include "report.h"

namespace mamba::gpu_report {

namespace mx = mlx::core;

namespace {

using Clock = std::chrono::steady_clock;

// What the calling thread has worked, waits left out.
double worked_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

mx::array normal(const mx::Shape& shape, mx::Dtype dtype, float mean = 0.0f, float scale = 1.0f) {
  mx::array a = mx::astype(mx::random::normal(shape, mx::float32, mean, scale), dtype);
  a.eval();
  return a;
}

// Median seconds of `run`, of `repeats` in a row without waiting in between, so that the host's own time is hidden
// where it is shorter than the device's.
double device_seconds(const std::function<std::vector<mx::array>()>& run, int repeats) {
  for (int i = 0; i < 3; ++i) {
    mx::eval(run());
  }
  std::vector<double> times;
  for (int round = 0; round < 7; ++round) {
    mx::synchronize();
    const auto start = Clock::now();
    for (int i = 0; i < repeats; ++i) {
      mx::async_eval(run());
    }
    mx::synchronize();
    times.push_back(seconds_since(start) / repeats);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

Json scan_figures(int batch, int length, int channels, mx::Dtype dtype) {
  const int states = 16;
  const mx::Shape wide = {batch, length, channels};
  mx::array A = mx::contiguous(mx::broadcast_to(mx::negative(mx::arange(1.0f, 17.0f)), {channels, states}));
  A.eval();
  const std::vector<mx::array> in = {normal(wide, dtype),
                                     normal(wide, dtype, -1.0f),
                                     A,
                                     normal({batch, length, states}, dtype),
                                     normal({batch, length, states}, dtype),
                                     normal({channels}, mx::float32),
                                     normal(wide, dtype),
                                     normal({channels}, mx::float32, -2.0f, 0.5f)};
  const mx::array gy = normal(wide, dtype);
  const auto scan = [](const std::vector<mx::array>& a) -> std::vector<mx::array> {
    return {ops::selective_scan(
                {.u = a[0], .delta = a[1], .A = a[2], .B = a[3], .C = a[4], .D = a[5], .z = a[6], .delta_bias = a[7]})
                .y};
  };
  // As many as fit a GPU's memory: it has all of them at once, since the host does not wait.
  const int repeats = static_cast<int64_t>(batch) * length * channels > (10 << 20) ? 10 : 30;
  Json figures;
  figures["forward_ms"] = 1e3 * device_seconds([&] { return scan(in); }, repeats);
  const auto both = [&] {
    auto [values, gradients] = mx::vjp(scan, in, {gy});
    gradients.push_back(values[0]);
    return gradients;
  };
  figures["forward_backward_ms"] = 1e3 * device_seconds(both, repeats);
  mx::clear_cache();
  mx::reset_peak_memory();
  mx::eval(both());
  figures["forward_backward_peak_mb"] = static_cast<double>(mx::get_peak_memory()) / 1e6;
  return figures;
}

models::Config shape_130m() {
  return {.vocab_size = 50280, .d_model = 768, .n_layer = 24};
}

models::Config shape_1400m() {
  return {.vocab_size = 50280, .d_model = 2048, .n_layer = 48};
}

models::MambaLM random_model(const models::Config& config, mx::Dtype dtype) {
  models::MambaLM model(config);
  models::initialize(model, 1);
  model.visit("", [&](const std::string& path, mx::array& value) {
    const bool small =
        value.ndim() < 2 || path.find("A_log") != std::string::npos || path.find("conv1d") != std::string::npos;
    if (!small) {
      value = mx::astype(value, dtype);
    }
    value.eval();
  });
  model.prepare();
  return model;
}

Json prompt_figures(mx::Dtype dtype, int length) {
  const models::MambaLM model = random_model(shape_130m(), dtype);
  const mx::array tokens = mx::astype(mx::random::randint(0, 50000, {1, length}), mx::int32);
  mx::eval(tokens);
  std::vector<double> times;
  for (int i = 0; i < 6; ++i) {
    models::State state = model.initial_state(1);
    mx::synchronize();
    const auto start = Clock::now();
    mx::eval(model.prefill(tokens, state));
    times.push_back(seconds_since(start));
  }
  std::sort(times.begin(), times.end());
  return {{"tokens_per_second", length / times[2]}, {"peak_mb", static_cast<double>(mx::get_peak_memory()) / 1e6}};
}

// What a step costs the host alone: the calls that build it and send it off, while the device has others to do.
double host_seconds(const models::MambaLM& model, int batch) {
  models::State state = model.initial_state(batch);
  std::optional<models::StackedState> stacked;
  if (model.steps_stacked(batch)) {
    stacked = models::StackedState::of(state);
  }
  mx::array tokens = mx::contiguous(mx::zeros({batch}, mx::int32));
  mx::array logits = tokens;
  std::vector<double> times;
  for (int i = 0; i < 30; ++i) {
    mx::synchronize();
    const auto start = Clock::now();
    if (stacked) {
      std::tie(logits, *stacked) = model.step(tokens, *stacked);
    } else {
      std::tie(logits, state) = model.step(tokens, state);
    }
    tokens = mx::astype(mx::argmax(logits, -1), mx::int32);
    std::vector<mx::array> arrays = stacked ? std::vector{stacked->conv, stacked->ssm} : state.arrays();
    arrays.push_back(tokens);
    mx::async_eval(arrays);
    times.push_back(seconds_since(start));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// What the device needs for a step and for the choice of tokens, greedy, when it does not wait for the host.
Json step_figures(const models::MambaLM& model, int batch) {
  models::State state = model.initial_state(batch);
  std::optional<models::StackedState> stacked;
  if (model.steps_stacked(batch)) {
    stacked = models::StackedState::of(state);
  }
  const mx::array tokens = mx::contiguous(mx::zeros({batch}, mx::int32));
  mx::array logits = tokens;
  const double step = device_seconds(
      [&] {
        if (stacked) {
          std::tie(logits, *stacked) = model.step(tokens, *stacked);
        } else {
          std::tie(logits, state) = model.step(tokens, state);
        }
        std::vector<mx::array> arrays = stacked ? std::vector{stacked->conv, stacked->ssm} : state.arrays();
        arrays.push_back(logits);
        return arrays;
      },
      10);
  const mx::array settings = mx::broadcast_to(mx::array({0.0f, 0.0f, 1.0f, 0.0f, 1.0f}), {batch, ops::kTokenSettings});
  const mx::array draws = mx::zeros({batch});
  const double choice = device_seconds(
      [&] {
        return std::vector{
            ops::choose_token({.logits = logits, .settings = settings, .draws = draws, .seen = std::nullopt}).chosen};
      },
      10);
  return {{"step_ms", 1e3 * step}, {"choice_ms", 1e3 * choice}};
}

Json generation_figures(const models::Config& config, mx::Dtype dtype, int batch) {
  const models::MambaLM model = random_model(config, dtype);
  std::vector<generate::Request> requests(static_cast<size_t>(batch));
  for (generate::Request& request : requests) {
    request.prompt.assign(100, 17);
    request.max_tokens = 100;
    request.sampling.temperature = 0;
    request.ignore_eos = true;
  }
  generate::Timings timings;
  for (int i = 0; i < 2; ++i) {
    timings = {};
    generate::generate(model, nullptr, requests, {}, &timings, batch);
  }
  Json figures = step_figures(model, batch);
  const auto tokens = static_cast<double>(timings.generated_tokens);
  figures["tokens_per_second"] = tokens / timings.generation_seconds;
  // As the official implementation's own benchmark counts.
  figures["with_prompt_tokens_per_second"] = tokens / (timings.prompt_seconds + timings.generation_seconds);
  figures["prompt_ms"] = 1e3 * timings.prompt_seconds;
  figures["host_ms_per_step"] = 1e3 * host_seconds(model, batch);
  return figures;
}

// Many short prompts, as a batch of requests begins, the choice of their first tokens included.
Json prompts_figures(const models::Config& config, mx::Dtype dtype, int batch, int length) {
  const models::MambaLM model = random_model(config, dtype);
  std::vector<double> times;
  for (int i = 0; i < 6; ++i) {
    generate::Batch requests(model, nullptr, {}, batch);
    for (int b = 0; b < batch; ++b) {
      generate::Request request;
      request.prompt.assign(static_cast<size_t>(length), 17 + b);
      request.max_tokens = 100;
      requests.add(std::move(request));
    }
    mx::synchronize();
    const auto start = Clock::now();
    requests.take_in();
    times.push_back(seconds_since(start));
  }
  const double first = times.front();
  std::sort(times.begin(), times.end());
  return {{"tokens_per_second", batch * length / times[2]},
          {"ms", 1e3 * times[2]},
          {"slowest_ms", 1e3 * times.back()},
          {"first_ms", 1e3 * first},
          {"peak_mb", static_cast<double>(mx::get_peak_memory()) / 1e6}};
}

Json training_figures(mx::Dtype dtype, int batch, int length, bool recompute) {
  const auto begun = Clock::now();
  models::MambaLM model(shape_130m());
  models::initialize(model, 1);
  const auto trainable = train::Trainable::of(model);
  train::Optimizer optimizer(trainable, {.compute_dtype = dtype});
  const mx::array ids = mx::astype(mx::random::randint(0, 50280, {batch, length + 1}), mx::int32);
  const train::Batch example{.tokens = mx::contiguous(mx::slice(ids, {0, 0}, {batch, length})),
                             .targets = mx::contiguous(mx::slice(ids, {0, 1}, {batch, length + 1})),
                             .resets = std::nullopt,
                             .target_count = int64_t{batch} * length};
  mx::eval(example.tokens, example.targets);
  // As a trainer does it: the numbers of a step are looked at before the next one begins.
  const models::State first = model.initial_state(batch);
  mx::eval(first.arrays());
  constexpr int kSteps = 13;
  constexpr int kWarmUp = 4;
  double loss = 0;
  double first_step = 0;
  std::vector<double> graph;
  std::vector<double> times;
  std::vector<double> worked;
  const double setup = seconds_since(begun);
  const auto prepare = [&] {
    const auto start = Clock::now();
    train::Gradients g = train::loss_and_gradients(model, trainable, example, first,
                                                   static_cast<double>(batch) * length, {.recompute = recompute});
    graph.push_back(seconds_since(start));
    return g;
  };
  train::Sender sender;
  train::Gradients next = prepare();
  for (int step = 0; step < kSteps; ++step) {
    if (step == kWarmUp) {
      mx::reset_peak_memory();
    }
    const auto start = Clock::now();
    const double worked_before = worked_seconds();
    train::Gradients g = std::move(next);
    std::vector<mx::array> updated;
    const mx::array norm = ops::global_norm(g.values);
    sender.send(g, {[&] {
                      const mx::array more = mx::add(norm, mx::array(1e-6f));
                      const mx::array scale = mx::minimum(mx::array(1.0f), mx::divide(mx::array(1.0f), more));
                      updated = optimizer.step_graph(trainable, std::move(g.values), 1e-4, scale);
                    },
                    [&] { next = prepare(); }});
    sender.replace(updated);
    sender.send_first(next);
    loss = g.loss.item<float>();
    mx::array copy = norm;
    copy.item<float>();
    times.push_back(seconds_since(start));
    worked.push_back(worked_seconds() - worked_before);
    first_step = step == 0 ? times.front() : first_step;
  }
  for (std::vector<double>* all : {&times, &worked}) {
    std::sort(all->begin() + kWarmUp, all->end());
  }
  std::sort(graph.begin(), graph.end());
  const double seconds = times[(kWarmUp + kSteps) / 2];
  return {{"tokens_per_second", batch * length / seconds},
          {"slowest", batch * length / times.back()},
          {"setup_s", setup},
          {"first_step_s", first_step},
          {"graph_ms", 1e3 * graph[graph.size() / 2]},
          {"host_ms", 1e3 * worked[(kWarmUp + kSteps) / 2]},
          {"cached_gib", static_cast<double>(mx::get_cache_memory()) / double(1 << 30)},
          {"active_gib", static_cast<double>(mx::get_active_memory()) / double(1 << 30)},
          {"peak_gib", static_cast<double>(mx::get_peak_memory()) / double(1 << 30)},
          {"loss", loss}};
}

}  // namespace

// Constant memory: the peak of a long prompt beside that of a short one.
Json long_prompt_figures(mx::Dtype dtype, int length) {
  const models::MambaLM model = random_model(shape_130m(), dtype);
  Json figures;
  for (const int tokens : {4096, length}) {
    const mx::array ids = mx::astype(mx::random::randint(0, 50000, {1, tokens}), mx::int32);
    models::State state = model.initial_state(1);
    mx::eval(ids);
    mx::clear_cache();
    mx::reset_peak_memory();
    const auto start = Clock::now();
    mx::eval(model.prefill(ids, state));
    figures[tokens == length ? "peak_mb" : "peak_mb_of_4096"] = static_cast<double>(mx::get_peak_memory()) / 1e6;
    figures["tokens_per_second"] = tokens / seconds_since(start);
  }
  return figures;
}

void benchmarks(const std::string& filter) {
  const auto add = [&](const std::string& name, const std::function<Json()>& run) {
    if (name.find(filter) == std::string::npos) {
      return;
    }
    Json entry;
    try {
      entry = run();
    } catch (const std::exception& failure) {
      entry = {{"failure", failure.what()}};
    }
    report("bench", name, std::move(entry));
    mx::clear_cache();
  };
  for (const mx::Dtype dtype : {mx::bfloat16, mx::float32}) {
    const std::string name = dtype == mx::float32 ? "float32" : "bfloat16";
    add("generation 130m batch 1 " + name, [=] { return generation_figures(shape_130m(), dtype, 1); });
    add("generation 130m batch 64 " + name, [=] { return generation_figures(shape_130m(), dtype, 64); });
    add("training 130m 8 x 1024 " + name, [=] { return training_figures(dtype, 8, 1024, false); });
    add("prompts 130m 64 x 100 " + name, [=] { return prompts_figures(shape_130m(), dtype, 64, 100); });
    add("prompt 130m 2048 " + name, [=] { return prompt_figures(dtype, 2048); });
  }
  add("generation 1.4b batch 1 bfloat16", [] { return generation_figures(shape_1400m(), mx::bfloat16, 1); });
  add("generation 1.4b batch 64 bfloat16", [] { return generation_figures(shape_1400m(), mx::bfloat16, 64); });
  add("prompts 1.4b 64 x 100 bfloat16", [] { return prompts_figures(shape_1400m(), mx::bfloat16, 64, 100); });
  add("scan B8 L2048 D4096 float32", [] { return scan_figures(8, 2048, 4096, mx::float32); });
  add("scan B8 L2048 D4096 bfloat16", [] { return scan_figures(8, 2048, 4096, mx::bfloat16); });
  add("scan B1 L2048 D1536 float32", [] { return scan_figures(1, 2048, 1536, mx::float32); });
  add("scan B8 L512 D1536 float32", [] { return scan_figures(8, 512, 1536, mx::float32); });
  add("scan B1 L65536 D1536 bfloat16", [] { return scan_figures(1, 65536, 1536, mx::bfloat16); });
  add("prompt 130m 1000000 bfloat16", [] { return long_prompt_figures(mx::bfloat16, 1000000); });
  add("training 130m 1 x 262144 bfloat16 recompute", [] { return training_figures(mx::bfloat16, 1, 262144, true); });
}

}  // namespace mamba::gpu_report
