// A training step as it runs on GPUs, its kernels as host C++, beside the CPU's.
#include <gtest/gtest.h>
#include <mlx/memory.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <string>
#include <utility>
#include <vector>

#include "mamba/models/initialize.h"
#include "mamba/models/lora.h"
#include "mamba/ops/accumulate/gpu_host.h"
#include "mamba/ops/adamw/gpu_host.h"
#include "mamba/ops/causal_conv1d/gpu_host.h"
#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/embedding/gpu_host.h"
#include "mamba/ops/global_norm/global_norm.h"
#include "mamba/ops/global_norm/gpu_host.h"
#include "mamba/ops/linear_cross_entropy/gpu_host.h"
#include "mamba/ops/product/gpu_host.h"
#include "mamba/ops/rms_norm/gpu_host.h"
#include "mamba/ops/selective_scan/gpu_host.h"
#include "mamba/train/objective.h"
#include "mamba/train/optimizer.h"
#include "mamba/train/sender.h"

namespace mamba::train {
namespace {

namespace mx = mlx::core;

constexpr int kVocab = 37;

// What runs while it lives takes the GPU's paths.
class GpuPaths {
 public:
  GpuPaths() {
    ops::accumulate_detail::use_host_kernels();
    ops::adamw_detail::use_host_kernels();
    ops::conv::use_host_kernels();
    ops::embedding_detail::use_host_kernels();
    ops::global_norm_detail::use_host_kernels();
    ops::linear_cross_entropy_detail::use_host_kernels();
    ops::norm::use_host_kernels();
    ops::product_detail::use_host_kernels();
    ops::scan::use_host_kernels();
    ops::take_gpu_paths(true);
  }
  ~GpuPaths() { ops::take_gpu_paths(false); }
};

models::MambaLM tiny_model(bool tied = true) {
  models::Config config{.vocab_size = kVocab, .d_model = 20, .n_layer = 2, .d_state = 5, .tie_embeddings = tied};
  config.initializer_range = 0.3;
  models::MambaLM model(config);
  models::initialize(model, 1);
  return model;
}

Batch some_batch(int rows, int length, bool resets) {
  std::vector<int32_t> tokens;
  std::vector<int32_t> targets;
  std::vector<uint8_t> starts;
  for (int i = 0; i < rows * length; ++i) {
    tokens.push_back(i * i % kVocab);
    targets.push_back(i % 7 == 3 ? kIgnored : (i + 1) * (i + 1) % kVocab);
    starts.push_back(i % 11 == 4 ? 1 : 0);
  }
  Batch batch{.tokens = mx::array(tokens.begin(), {rows, length}, mx::int32),
              .targets = mx::array(targets.begin(), {rows, length}, mx::int32),
              .resets = std::nullopt,
              .target_count = int64_t{rows} * length};
  if (resets) {
    batch.resets = mx::array(starts.begin(), {rows, length}, mx::uint8);
  }
  return batch;
}

// The loss, the final states and all gradients.
std::vector<mx::array> all_of(const Gradients& gradients) {
  std::vector<mx::array> all = {gradients.loss};
  const std::vector<mx::array> state = gradients.state.arrays();
  all.insert(all.end(), state.begin(), state.end());
  all.insert(all.end(), gradients.values.begin(), gradients.values.end());
  mx::eval(all);
  return all;
}

void expect_close(const std::vector<mx::array>& got, const std::vector<mx::array>& want, double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].shape(), want[i].shape()) << i;
    EXPECT_EQ(got[i].dtype(), want[i].dtype()) << i;
    const mx::array wide = mx::astype(want[i], mx::float32);
    const mx::array size = mx::sqrt(mx::mean(mx::square(wide)));
    EXPECT_LE(ops::testing::worst_difference(got[i], want[i], mx::maximum(mx::abs(wide), size)), tolerance)
        << "array " << i;
  }
}

struct Case {
  bool tied = true;
  bool resets = false;
  bool recompute = false;
  double dropout = 0;
};

TEST(GpuPath, GradientsAreThoseOfTheCpu) {
  for (const Case& c :
       std::vector<Case>{{}, {.tied = false}, {.resets = true}, {.recompute = true}, {.dropout = 0.2}}) {
    models::MambaLM model = tiny_model(c.tied);
    const auto trainable = Trainable::of(model);
    const Batch batch = some_batch(2, 45, c.resets);
    // A state that is not zero.
    const models::State state =
        loss_and_gradients(model, trainable, some_batch(2, 9, false), model.initial_state(2), 18).state;
    const ObjectiveOptions options{.recompute = c.recompute, .dropout = {c.dropout, 5}};
    const auto want = all_of(loss_and_gradients(model, trainable, batch, state, 90, options));
    const GpuPaths paths;
    Gradients got = loss_and_gradients(model, trainable, batch, state, 90, options);
    EXPECT_FALSE(got.order.empty());
    Sender().send(got);
    expect_close(all_of(got), want, 2e-5);
  }
}

TEST(GpuPath, GradientsInSixteenBitsAreThoseOfTheCpu) {
  models::MambaLM model = tiny_model();
  const auto trainable = Trainable::of(model);
  Optimizer optimizer(trainable, {.compute_dtype = mx::bfloat16});
  const Batch batch = some_batch(2, 45, false);
  const auto want = all_of(loss_and_gradients(model, trainable, batch, model.initial_state(2), 90));
  const GpuPaths paths;
  const auto got = all_of(loss_and_gradients(model, trainable, batch, model.initial_state(2), 90));
  // What is between products is rounded to 8 bits on both sides, at other places.
  expect_close(got, want, 0.06);
}

// Bytes of what the forward pass leaves for the backward pass: of each block the sum before it, what in_proj and x_proj
// give and the scan's states before segments of 32 positions.
TEST(GpuPath, LittleIsKeptForTheBackwardPass) {
  const GpuPaths paths;
  constexpr int kRows = 2;
  constexpr int kLength = 96;
  constexpr int kWidth = 32;
  constexpr int kBlocks = 8;
  constexpr int kStates = 8;
  models::MambaLM model({.vocab_size = kVocab, .d_model = kWidth, .n_layer = kBlocks, .d_state = kStates});
  models::initialize(model, 1);
  const auto trainable = Trainable::of(model);
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    Optimizer optimizer(trainable, {.compute_dtype = dtype});
    const Batch batch = some_batch(kRows, kLength, false);
    const models::State state = model.initial_state(kRows);
    mx::eval(state.arrays());
    const size_t before = mx::get_active_memory();
    Gradients g = loss_and_gradients(model, trainable, batch, state, 90);
    bool has_loss = false;
    for (auto piece = g.order.begin(); !has_loss; ++piece) {
      has_loss = piece->back().id() == g.loss.id();
      mx::eval(std::exchange(*piece, {}));
    }
    mx::synchronize();
    const size_t kept = mx::get_active_memory() - before;
    const size_t wide = kRows * kLength * kWidth;
    const size_t narrow = kRows * kLength * (2 + 2 * kStates);
    const size_t scan_states = kRows * kLength / 32 * kStates * 2 * kWidth;
    const size_t A = kStates * 2 * kWidth;
    size_t most = kBlocks * (4 * wide + dtype.size() * (4 * wide + narrow) + 4 * scan_states + 4 * A);
    for (const mx::array& a : g.state.arrays()) {
      most += a.nbytes();
    }
    // Around the blocks: the last sum, embeddings, last hidden states and their gradient. One more array of each block
    // would be twice what there is room for.
    most += 4 * wide + 3 * dtype.size() * wide;
    EXPECT_LT(kept, most + kBlocks / 2 * dtype.size() * wide) << dtype.size();
  }
}

TEST(GpuPath, AdaptersTrain) {
  models::MambaLM model = tiny_model();
  models::add_lora(model, {.rank = 3, .target_modules = {.names = {"in_proj", "x_proj"}}}, 7);
  models::LoraParameters adapters{model};
  const auto trainable = Trainable::of(adapters);
  const Batch batch = some_batch(2, 21, false);
  const auto want = all_of(loss_and_gradients(model, trainable, batch, model.initial_state(2), 42));
  const GpuPaths paths;
  expect_close(all_of(loss_and_gradients(model, trainable, batch, model.initial_state(2), 42)), want, 2e-5);
}

// What a model holds after steps on either side of a checkpoint, and what the next checkpoint would.
std::vector<mx::array> steps_around_a_checkpoint(const OptimizerOptions& options) {
  const auto step = [](const Trainable& trainable, Optimizer& optimizer, uint64_t seed) {
    std::vector<mx::array> gradients;
    for (const mx::array& a : nn::parameter_list(trainable)) {
      gradients.push_back(mx::astype(mx::random::normal(a.shape(), mx::float32, mx::random::key(seed++)), a.dtype()));
    }
    optimizer.step(trainable, std::move(gradients), 1e-2, mx::array(0.5f));
  };
  models::MambaLM model = tiny_model();
  const auto trainable = Trainable::of(model);
  Optimizer first(trainable, options);
  step(trainable, first, 1);
  step(trainable, first, 100);
  models::MambaLM resumed = tiny_model();
  const auto again = Trainable::of(resumed);
  const nn::ParameterMap saved = first.result(trainable);
  again.visit("", [&](const std::string& path, mx::array& value) { value = saved.at(path); });
  Optimizer second(again, options);
  second.restore(again, first.moments(trainable), first.steps());
  step(again, second, 200);
  std::vector<mx::array> all;
  for (const nn::ParameterMap& map : {nn::parameters(again), second.moments(again), second.result(again)}) {
    for (const auto& [path, value] : map) {
      all.push_back(value);
    }
  }
  const Optimizer::Averaged averaged(second, again);
  for (const mx::array& value : nn::parameter_list(again)) {
    all.push_back(value);
  }
  mx::eval(all);
  return all;
}

TEST(GpuPath, OptimizersGoOnFromWhatTheyGave) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    for (const double decay : {0.0, 0.5}) {
      const OptimizerOptions options{.average_decay = decay, .compute_dtype = dtype};
      const std::vector<mx::array> want = steps_around_a_checkpoint(options);
      const GpuPaths paths;
      // Where a sum lies between two numbers of 16 bits either may come out.
      expect_close(steps_around_a_checkpoint(options), want, dtype == mx::float32 ? 1e-5 : 0x1p-8);
    }
  }
}

TEST(GpuPath, StepsFollowTheCpu) {
  const auto losses = [](bool gpu) {
    models::MambaLM model = tiny_model();
    const auto trainable = Trainable::of(model);
    Optimizer optimizer(trainable, {});
    Sender sender;
    std::optional<GpuPaths> paths;
    if (gpu) {
      paths.emplace();
    }
    std::vector<float> all;
    for (int step = 0; step < 8; ++step) {
      Gradients g = loss_and_gradients(model, trainable, some_batch(2, 17 + step, false), model.initial_state(2), 40);
      // As the trainer does: the update is put together while gradients are computed.
      sender.send_first(g);
      std::vector<mx::array> updated;
      int calls = 0;
      sender.send(g, {[&] {
                        const mx::array norm = ops::global_norm(g.values);
                        const mx::array factor = mx::divide(mx::array(1.0f), mx::add(norm, mx::array(1.0f)));
                        updated = optimizer.step_graph(trainable, std::move(g.values), 3e-3, factor);
                      },
                      [&] {
                        // What is sent is not held any longer.
                        for (size_t i = 0; i < g.sent; ++i) {
                          EXPECT_TRUE(g.order[i].empty());
                        }
                        ++calls;
                      }});
      EXPECT_EQ(calls, 1);
      EXPECT_TRUE(g.order.empty());
      sender.replace(updated);
      mx::eval(updated);
      all.push_back(g.loss.item<float>());
    }
    return all;
  };
  const std::vector<float> want = losses(false);
  const std::vector<float> got = losses(true);
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_NEAR(got[i], want[i], 1e-4) << "step " << i;
  }
}

}  // namespace
}  // namespace mamba::train
