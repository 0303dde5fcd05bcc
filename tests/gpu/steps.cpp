// A token of each sequence, by each of the ways there are, beside plain operations on the CPU; and its choice.
#include <fmt/format.h>
#include <mlx/ops.h>

#include <optional>
#include <tuple>

#include "mamba/models/initialize.h"
#include "mamba/ops/block_step/block_step.h"
#include "mamba/ops/causal_conv1d/causal_conv1d.h"
#include "mamba/ops/choose_token/choose_token.h"
#include "mamba/ops/linear/linear.h"
#include "mamba/ops/selective_scan/selective_scan.h"
#include "table.h"

namespace mamba::gpu_report {

namespace mx = mlx::core;

namespace {

void cast_matrices(models::MambaLM& model, mx::Dtype dtype) {
  model.visit("", [&](const std::string& path, mx::array& value) {
    if (path.find("_proj.weight") != std::string::npos || path.find("embeddings") != std::string::npos) {
      value = mx::astype(value, dtype, mx::Device::cpu);
    }
    value.eval();
  });
}

// The logits of some tokens of each sequence, and the states after them.
Arrays run_steps(models::MambaLM model, int batch, int count, bool whole, mx::Device device) {
  mx::set_default_device(device);
  model.prepare();
  models::State state = model.initial_state(batch);
  std::optional<models::StackedState> stacked;
  if (device == mx::Device::gpu && whole) {
    stacked = models::StackedState::of(state);
  }
  Arrays out;
  for (int t = 0; t < count; ++t) {
    std::vector<int32_t> ids;
    for (int b = 0; b < batch; ++b) {
      ids.push_back((31 * t + 17 * b + 5) % 517);
    }
    const mx::array tokens(ids.begin(), {batch}, mx::int32);
    out.push_back(tokens);
    if (stacked) {
      std::tie(out.back(), *stacked) = model.step(tokens, *stacked);
    } else {
      const auto way = device == mx::Device::cpu ? models::StepWay::kOperations : models::StepWay::kMixer;
      std::tie(out.back(), state) = model.step(tokens, state, way);
    }
  }
  for (const mx::array& s : (stacked ? stacked->split() : state).arrays()) {
    out.push_back(s);
  }
  return out;
}

// The mixer's kernel, and on the CPU the operations that it stands for.
ops::StepOutputs mixer_of(const mx::array& xz, const mx::array& conv, const mx::array& ssm,
                          const ops::MixerStepWeights& w, mx::Device device) {
  if (device == mx::Device::gpu) {
    return ops::mixer_step(xz, conv, ssm, w, mx::default_stream(device));
  }
  const int channels = w.A.shape(0);
  const int states = w.A.shape(1);
  const int rank = w.dt_proj.shape(1);
  const std::vector<mx::array> halves = mx::split(xz, mx::Shape{channels}, 1, device);
  const auto convolved = ops::causal_conv1d({.x = mx::expand_dims(halves[0], 1, device),
                                             .weight = w.conv_weight,
                                             .bias = w.conv_bias,
                                             .initial_state = conv,
                                             .silu = true},
                                            device);
  const mx::array u = mx::squeeze(convolved.y, 1, device);
  const std::vector<mx::array> parts =
      mx::split(ops::linear(u, w.x_proj, {}, {}, device), mx::Shape{rank, rank + states}, 1, device);
  const auto scan = ops::selective_scan_step({.u = u,
                                              .delta = ops::linear(parts[0], w.dt_proj, {}, {}, device),
                                              .A = w.A,
                                              .B = parts[1],
                                              .C = parts[2],
                                              .D = w.D,
                                              .z = halves[1],
                                              .delta_bias = w.dt_bias,
                                              .initial_state = ssm},
                                             device);
  return {scan.y, convolved.state, scan.state};
}

}  // namespace

void add_steps(Table& table) {
  struct Case {
    int batch;
    const char* way;  // mixer: its kernel between products; model: all in one launch
    int width;
    mx::Dtype dtype;
  };
  for (const Case& c : std::vector<Case>{{1, "model", 312, mx::float32},
                                         {1, "model", 384, mx::float32},
                                         {3, "model", 312, mx::float32},
                                         {20, "model", 384, mx::float32},
                                         {70, "model", 312, mx::float32},
                                         {70, "mixer", 312, mx::float32},
                                         {1, "model", 384, mx::bfloat16},
                                         {5, "model", 312, mx::bfloat16},
                                         {64, "model", 384, mx::bfloat16},
                                         {64, "model", 2048, mx::bfloat16},
                                         {41, "model", 1536, mx::bfloat16},
                                         {9, "mixer", 312, mx::bfloat16}}) {
    // Less of wide models, which take the CPU long.
    constexpr int kWide = 1024;
    const int count = c.width < kWide ? 8 : 2;
    models::MambaLM model({.vocab_size = 517, .d_model = c.width, .n_layer = c.width < kWide ? 4 : 2});
    models::initialize(model, 5);
    cast_matrices(model, c.dtype);
    models::MambaLM wide = model;
    cast_matrices(wide, mx::float32);
    const std::string name = fmt::format("step {} B{} M{} {}", c.way, c.batch, c.width, name_of(c.dtype));
    const bool whole = std::string(c.way) == "model";
    const Function steps = [&](const Arrays&, mx::Device device) {
      return run_steps(model, c.batch, count, whole, device);
    };
    if (c.dtype == mx::float32) {
      table.add_values(name, 1e-3, steps, {});
    } else {
      table.add_beside(name, steps, [&] { return run_steps(wide, c.batch, count, whole, mx::Device::cpu); });
    }
  }
  // The mixer's kernel without the products around it, which compute-sanitizer's racecheck fails at.
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    const auto mixer = [=](mx::Dtype of, mx::Device device) -> Arrays {
      constexpr int kBatch = 9;
      constexpr int kChannels = 330;
      constexpr int kRank = 21;
      const auto given = [&](const mx::Shape& shape, uint64_t seed, float scale = 1.0f) {
        return mx::astype(normal(shape, seed, scale, 0.0f, dtype), of, mx::Device::cpu);
      };
      const ops::MixerStepWeights weights{
          .conv_weight = normal({kChannels, 4}, 4),
          .conv_bias = normal({kChannels}, 5),
          .x_proj = given({kRank + 32, kChannels}, 6, 0.05f),
          .dt_proj = given({kChannels, kRank}, 7, 0.2f),
          .dt_bias = normal({kChannels}, 8, 0.5f, -2.0f),
          .A = mx::negative(mx::exp(normal({kChannels, 16}, 9), mx::Device::cpu), mx::Device::cpu),
          .D = normal({kChannels}, 10)};
      const auto out = mixer_of(given({kBatch, 2 * kChannels}, 1), given({kBatch, 3, kChannels}, 2),
                                normal({kBatch, kChannels, 16}, 3), weights, device);
      return {out.y, out.conv, out.ssm};
    };
    const Function run = [=](const Arrays&, mx::Device device) { return mixer(dtype, device); };
    const std::string name = fmt::format("mixer_step B9 {}", name_of(dtype));
    if (dtype == mx::float32) {
      table.add_values(name, 1e-4, run, {});
    } else {
      table.add_beside(name, run, [=] { return mixer(mx::float32, mx::Device::cpu); });
    }
  }
  const Function choose = [](const Arrays& a, mx::Device device) -> Arrays {
    const auto out = ops::choose_token({.logits = a[0], .settings = a[1], .draws = a[2], .seen = a[3]}, device);
    return {mx::slice(out.chosen, {0, 0}, {out.chosen.shape(0), 1}, device), *out.seen,
            mx::view(mx::contiguous(mx::slice(out.chosen, {0, 1}, {out.chosen.shape(0), 2}, device), false, device),
                     mx::float32, device)};
  };
  const std::vector<float> settings = {0,    0, 1,  0,     1,     1,    0, 1,    0,    1, 0.8f, 0,
                                       0.9f, 0, 1,  0.7f,  40,    1,    0, 1.2f, 1.5f, 0, 1,    0.05f,
                                       1,    1, 50, 0.95f, 0.01f, 1.1f, 0, 0,    1,    0, 2};
  const mx::array seen =
      mx::astype(mx::greater(normal({7, 50280}, 8), mx::array(1.0f), mx::Device::cpu), mx::uint8, mx::Device::cpu);
  table.add_values("choose_token", 1e-5, choose,
                   {normal({7, 50280}, 6, 2.5f), mx::array(settings.begin(), {7, 5}),
                    mx::array({0.1f, 0.2f, 0.35f, 0.5f, 0.77f, 0.9f, 0.99f}, {7}), seen});
}

}  // namespace mamba::gpu_report
