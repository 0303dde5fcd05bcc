#include <gtest/gtest.h>
#include <mlx/memory.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cstring>

#include "mamba/models/initialize.h"
#include "mamba/models/mamba.h"
#include "mamba/models/weight_block.h"
#include "mamba/ops/block_step/gpu_host.h"
#include "mamba/ops/model_step/gpu_host.h"

namespace mamba::models {
namespace {

namespace mx = mlx::core;

MambaLM small_model(mx::Dtype dtype) {
  Config config;
  config.vocab_size = 61;
  config.d_model = 20;
  config.n_layer = 3;
  config.initializer_range = 0.5;
  MambaLM model(config);
  initialize(model, 5);
  model.visit("", [&](const std::string& path, mx::array& value) {
    if (path.find("_proj.weight") != std::string::npos || path.find("embeddings") != std::string::npos) {
      value = mx::astype(value, dtype);
    }
  });
  model.prepare();
  return model;
}

mx::array some_tokens(int batch, int t) {
  std::vector<int32_t> ids;
  for (int b = 0; b < batch; ++b) {
    ids.push_back((7 * t + 11 * b) % 61);
  }
  return mx::array(ids.begin(), {batch}, mx::int32);
}

void expect_close(const mx::array& a, const mx::array& b, double tolerance) {
  EXPECT_EQ(a.dtype(), b.dtype());
  EXPECT_TRUE(mx::allclose(mx::astype(a, mx::float32), mx::astype(b, mx::float32), tolerance, tolerance).item<bool>());
}

void expect_close(const State& got, const State& want, double tolerance) {
  for (size_t i = 0; i < got.layers.size(); ++i) {
    expect_close(got.layers[i].conv, want.layers[i].conv, tolerance);
    expect_close(got.layers[i].ssm, want.layers[i].ssm, tolerance);
  }
}

// Logits and states beside those of the operations, over some tokens.
TEST(Step, EveryWayGivesTheSame) {
  ops::step::use_host_kernels();
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    const MambaLM model = small_model(dtype);
    const double tolerance = dtype == mx::float32 ? 1e-4 : 0.05;
    for (const int batch : {1, 3}) {
      for (const StepWay way : {StepWay::kMixer, StepWay::kStacked}) {
        State got = model.initial_state(batch);
        State want = got;
        for (int t = 0; t < 6; ++t) {
          const mx::array tokens = some_tokens(batch, t);
          auto [logits, next] = model.step(tokens, got, way);
          auto [expected, after] = model.step(tokens, want, StepWay::kOperations);
          expect_close(logits, expected, tolerance);
          got = next;
          want = after;
        }
        expect_close(got, want, tolerance);
      }
    }
  }
}

// All layers in one node of a CPU's graph, from states that are stacked and split on the way.
TEST(Step, StacksOnCpusUnlessThereAreAdapters) {
  MambaLM model = small_model(mx::float32);
  EXPECT_TRUE(model.steps_stacked(3));
  EXPECT_TRUE(model.steps_at_once());
  model.visit_linears("", [](const std::string& path, nn::Linear& layer) {
    if (path.find("layers.2.mixer.x_proj") != std::string::npos) {
      layer.lora.emplace();
    }
  });
  EXPECT_FALSE(model.steps_stacked(3));
  EXPECT_FALSE(model.steps_at_once());
  model.visit_linears("", [](const std::string&, nn::Linear& layer) { layer.lora.reset(); });
  EXPECT_TRUE(model.steps_stacked(3));
  model.visit("", [](const std::string&, mx::array&) {});
  EXPECT_FALSE(model.steps_stacked(3));
}

TEST(Step, GivesTheSameBitsAtOnce) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    const MambaLM model = small_model(dtype);
    StackedState in_graph = StackedState::of(model.initial_state(3));
    StackedState at_once = in_graph;
    for (int t = 0; t < 5; ++t) {
      mx::array tokens = some_tokens(3, t);
      auto [logits, next] = model.step(tokens, in_graph);
      in_graph = next;
      const mx::array got = model.step_at_once({tokens.data<int32_t>(), 3}, at_once);
      EXPECT_TRUE(mx::array_equal(got, logits).item<bool>()) << dtype << " " << t;
      EXPECT_TRUE(mx::array_equal(at_once.conv, in_graph.conv).item<bool>());
      EXPECT_TRUE(mx::array_equal(at_once.ssm, in_graph.ssm).item<bool>());
    }
  }
}

// Weights are the larger part of what a program holds, and lie in memory that is not MLX's.
TEST(Step, ReadsMatricesWhereTheyLie) {
  MambaLM model = small_model(mx::bfloat16);
  size_t bytes = 0;
  model.visit_matrices("", [&](const std::string&, nn::Matrix& matrix) { bytes += WeightBlock::room(matrix.bytes()); });
  WeightBlock block(bytes);
  model.visit_matrices("", [&](const std::string&, nn::Matrix& matrix) {
    std::memcpy(block.next(), matrix.weight.data<char>(), matrix.weight.nbytes());
    matrix.weight = block.take(matrix.weight.shape(), matrix.weight.dtype());
  });
  MambaLM unprepared = model;
  unprepared.visit("", [](const std::string&, mx::array&) {});
  const size_t before = mx::get_active_memory();
  unprepared.prepare();
  EXPECT_LT(mx::get_active_memory() - before, bytes / 2);
}

// All layers in one launch of a GPU, from states that are stacked and split on the way, and weights that became views.
TEST(Step, StackedLayersGiveTheSame) {
  ops::step::use_host_model_kernel();
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    MambaLM model = small_model(dtype);
    const MambaLM apart = model;
    const double tolerance = dtype == mx::float32 ? 1e-4 : 0.05;
    ASSERT_TRUE(model.stack_layers());
    EXPECT_FALSE(model.steps_stacked(1));  // a CPU
    for (const int batch : {1, 3}) {
      State got = model.initial_state(batch);
      State want = got;
      for (int t = 0; t < 6; ++t) {
        const mx::array tokens = some_tokens(batch, t);
        auto [logits, next] = model.step(tokens, StackedState::of(got));
        auto [expected, after] = apart.step(tokens, want, StepWay::kOperations);
        expect_close(logits, expected, tolerance);
        expect_close(model.step(tokens, got, StepWay::kOperations).first,
                     apart.step(tokens, got, StepWay::kOperations).first, 0);
        got = next.split();
        want = after;
      }
      expect_close(got, want, tolerance);
    }
  }
}

TEST(Step, WhatIsNotPlainIsNotStacked) {
  MambaLM mixed = small_model(mx::float32);
  mixed.visit("", [&](const std::string& path, mx::array& value) {
    if (path.find("layers.1.mixer.x_proj.weight") != std::string::npos) {
      value = mx::astype(value, mx::bfloat16);
    }
  });
  mixed.prepare();
  EXPECT_FALSE(mixed.stack_layers());
  MambaLM model = small_model(mx::float32);
  EXPECT_TRUE(model.stack_layers());
  model.visit("", [](const std::string&, mx::array&) {});
  EXPECT_FALSE(model.stack_layers());  // not prepared any more
}

}  // namespace
}  // namespace mamba::models
