#include <fmt/format.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>
#include <vector>

#include "mamba/generate/generator.h"
#include "mamba/models/initialize.h"
#include "mamba/ops/global_norm/global_norm.h"
#include "mamba/train/objective.h"
#include "mamba/train/optimizer.h"
#include "report.h"

namespace mamba::gpu_report {

namespace mx = mlx::core;

namespace {

constexpr int kVocab = 199;

// Initialised on the CPU whatever comes after: the same numbers on every device.
models::MambaLM small_model() {
  mx::set_default_device(mx::Device::cpu);
  models::Config config{.vocab_size = kVocab, .d_model = 64, .n_layer = 3};
  config.initializer_range = 0.2;
  models::MambaLM model(config);
  models::initialize(model, 3);
  for (mx::array& a : nn::parameter_list(model)) {
    a.eval();
  }
  return model;
}

std::vector<double> losses(mx::Device device, bool recompute) {
  constexpr int kBatch = 4;
  constexpr int kLength = 96;
  models::MambaLM model = small_model();
  mx::set_default_device(device);
  const auto trainable = train::Trainable::of(model);
  train::Optimizer optimizer(trainable, {});
  std::vector<double> out;
  for (int step = 0; step < 100; ++step) {
    std::vector<int32_t> tokens;
    std::vector<int32_t> targets;
    for (int i = 0; i < kBatch * kLength; ++i) {
      const int at = i + step * 5;
      tokens.push_back(at * at % kVocab);
      targets.push_back((at + 1) * (at + 1) % kVocab);
    }
    const train::Batch batch{.tokens = mx::array(tokens.begin(), {kBatch, kLength}, mx::int32),
                             .targets = mx::array(targets.begin(), {kBatch, kLength}, mx::int32),
                             .resets = std::nullopt,
                             .target_count = kBatch * kLength};
    train::Gradients g = train::loss_and_gradients(model, trainable, batch, model.initial_state(kBatch),
                                                   kBatch * kLength, {.recompute = recompute});
    const mx::array norm = ops::global_norm(g.values);
    const mx::array scale = mx::minimum(mx::array(1.0f), mx::divide(mx::array(1.0f), mx::add(norm, mx::array(1e-6f))));
    optimizer.step(trainable, std::move(g.values), 1e-3, scale);
    out.push_back(g.loss.item<float>());
  }
  return out;
}

std::vector<generate::Result> texts(mx::Device device) {
  models::MambaLM model = small_model();
  mx::set_default_device(device);
  model.prepare();
  std::vector<generate::Request> requests(12);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt = {static_cast<int32_t>(i), 5, static_cast<int32_t>(i * 7)};
    requests[i].max_tokens = 40 + static_cast<int>(i);
    requests[i].sampling.temperature = 0;
    requests[i].sampling.repetition_penalty = i % 2 == 0 ? 1.3f : 1.0f;
    requests[i].ignore_eos = true;
  }
  std::vector<generate::Result> out = generate::generate(model, nullptr, requests);
  // Alone, sequences go through other kernels.
  const auto alone = generate::generate(model, nullptr, {requests[0], requests[1]}, {}, nullptr, 1);
  out.insert(out.end(), alone.begin(), alone.end());
  return out;
}

}  // namespace

bool trajectories(const std::string& filter) {
  bool ok = true;
  for (const bool recompute : {false, true}) {
    const std::string name = recompute ? "100 steps recomputed" : "100 steps";
    if (name.find(filter) != std::string::npos) {
      const std::vector<double> want = losses(mx::Device::cpu, recompute);
      const std::vector<double> got = losses(mx::Device::gpu, recompute);
      double worst = 0;
      for (size_t i = 0; i < want.size(); ++i) {
        worst = std::isfinite(got[i]) ? std::max(worst, std::fabs(got[i] - want[i])) : INFINITY;
      }
      const bool fits = worst <= 1e-3;
      ok = ok && fits;
      report("trajectory", name,
             {{"largest_difference", std::isfinite(worst) ? Json(worst) : Json("not finite")},
              {"first_loss", want.front()},
              {"last_loss", want.back()},
              {"ok", fits}});
    }
  }
  const std::string name = "greedy text";
  if (name.find(filter) != std::string::npos) {
    const auto want = texts(mx::Device::cpu);
    const auto got = texts(mx::Device::gpu);
    int different = 0;
    double logprobs = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      different += got[i].tokens != want[i].tokens ? 1 : 0;
      for (size_t t = 0; t < want[i].logprobs.size() && got[i].tokens == want[i].tokens; ++t) {
        logprobs = std::max(logprobs, std::fabs(got[i].logprobs[t] - want[i].logprobs[t]));
      }
    }
    const bool fits = different == 0 && logprobs < 1e-3;
    ok = ok && fits;
    report("trajectory", name,
           {{"texts", want.size()}, {"different", different}, {"largest_logprob_difference", logprobs}, {"ok", fits}});
  }
  mx::set_default_device(mx::Device::gpu);
  return ok;
}

}  // namespace mamba::gpu_report
