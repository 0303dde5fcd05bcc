#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "mamba/models/initialize.h"
#include "mamba/models/mamba.h"
#include "mamba/ops/block_step/gpu_host.h"

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

// Each way's logits and states beside those of the operations, over some tokens.
TEST(Step, EveryWayGivesTheSame) {
  ops::step::use_host_kernels();
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    const MambaLM model = small_model(dtype);
    const double tolerance = dtype == mx::float32 ? 1e-4 : 0.05;
    for (const int batch : {1, 3}) {
      for (const StepWay way : {StepWay::kMixer, StepWay::kBlock, StepWay::kCpuBlock}) {
        State got = model.initial_state(batch);
        State want = got;
        for (int t = 0; t < 6; ++t) {
          std::vector<int32_t> ids;
          for (int b = 0; b < batch; ++b) {
            ids.push_back((7 * t + 11 * b) % 61);
          }
          const mx::array tokens(ids.begin(), {batch}, mx::int32);
          auto [logits, next] = model.step(tokens, got, way);
          auto [expected, after] = model.step(tokens, want, StepWay::kOperations);
          EXPECT_TRUE(mx::allclose(logits, expected, tolerance, tolerance).item<bool>()) << t;
          got = next;
          want = after;
        }
        for (size_t i = 0; i < got.layers.size(); ++i) {
          const auto close = [&](const mx::array& a, const mx::array& b) {
            EXPECT_EQ(a.dtype(), b.dtype());
            EXPECT_TRUE(mx::allclose(mx::astype(a, mx::float32), mx::astype(b, mx::float32), tolerance, tolerance)
                            .item<bool>());
          };
          close(got.layers[i].conv, want.layers[i].conv);
          close(got.layers[i].ssm, want.layers[i].ssm);
        }
      }
    }
  }
}

}  // namespace
}  // namespace mamba::models
