// A prompt as GPUs read it, its kernels as host C++, beside the CPU's.
#include <gtest/gtest.h>
#include <mlx/ops.h>

#include <cstdint>
#include <vector>

#include "mamba/models/initialize.h"
#include "mamba/models/mamba.h"
#include "mamba/models/sent_blocks.h"
#include "mamba/ops/causal_conv1d/gpu_host.h"
#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/product/gpu_host.h"
#include "mamba/ops/rms_norm/gpu_host.h"
#include "mamba/ops/selective_scan/gpu_host.h"

namespace mamba::models {
namespace {

namespace mx = mlx::core;
using mamba::ops::testing::same_bits;

constexpr int kVocab = 37;

// What runs while it lives takes the GPU's paths.
class GpuPaths {
 public:
  GpuPaths() {
    ops::conv::use_host_kernels();
    ops::norm::use_host_kernels();
    ops::product_detail::use_host_kernels();
    ops::scan::use_host_kernels();
    ops::take_gpu_paths(true);
  }
  ~GpuPaths() { ops::take_gpu_paths(false); }
};

MambaLM model_of(mx::Dtype dtype, Config config = {.vocab_size = kVocab, .d_model = 20, .n_layer = 3}) {
  config.initializer_range = 0.1;
  MambaLM model(config);
  initialize(model, 3);
  model.visit("", [&](const std::string& path, mx::array& value) {
    if (path.find("_proj.weight") != std::string::npos || path.find("embeddings") != std::string::npos) {
      value = mx::astype(value, dtype);
    }
  });
  return model;
}

mx::array tokens_of(int batch, int length) {
  std::vector<int32_t> ids;
  for (int i = 0; i < batch * length; ++i) {
    ids.push_back((i * i + 3 * i) % kVocab);
  }
  return mx::array(ids.begin(), {batch, length}, mx::int32);
}

void expect_close(const mx::array& got, const mx::array& want, float tolerance) {
  ASSERT_EQ(got.shape(), want.shape());
  const mx::array a = mx::astype(got, mx::float32);
  const mx::array b = mx::astype(want, mx::float32);
  EXPECT_LT(mx::max(mx::abs(mx::subtract(a, b))).item<float>(), tolerance * mx::max(mx::abs(b)).item<float>());
}

// Rows of padding among them, of which nothing may be left.
void expect_like_the_cpu(MambaLM model, const mx::array& tokens, const ForwardOptions& options, float tolerance) {
  model.prepare();
  State want_state = model.initial_state(tokens.shape(0));
  const mx::array want = model.prefill(tokens, want_state, options);
  const mx::array want_all = model.forward(tokens, want_state, options);
  MambaLM on_gpu = model;
  on_gpu.visit("", [](const std::string&, mx::array&) {});
  const GpuPaths gpu;
  on_gpu.prepare();
  for (int i = 0; i < 2; ++i) {  // with what the first one made, too
    State state = on_gpu.initial_state(tokens.shape(0));
    expect_close(on_gpu.prefill(tokens, state, options), want, tolerance);
    expect_close(on_gpu.forward(tokens, state, options), want_all, tolerance);
    for (size_t layer = 0; layer < state.layers.size(); ++layer) {
      expect_close(state.layers[layer].conv, want_state.layers[layer].conv, tolerance);
      expect_close(state.layers[layer].ssm, want_state.layers[layer].ssm, tolerance);
    }
  }
}

TEST(GpuPrompt, ReadsAsTheCpuDoes) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    const float tolerance = dtype == mx::float32 ? 2e-5f : 0.05f;
    const mx::array tokens = tokens_of(3, 29);
    expect_like_the_cpu(model_of(dtype), tokens, {}, tolerance);
    ForwardOptions ragged;
    ragged.spans = right_padded({29, 1, 17});
    expect_like_the_cpu(model_of(dtype), tokens, ragged, tolerance);
    ragged.spans = Spans{{4, 29}, {0, 29}, {12, 12}};
    expect_like_the_cpu(model_of(dtype), tokens, ragged, tolerance);
  }
}

TEST(GpuPrompt, SumsMayBeMadeInPieces) {
  for (const int inner : {1040, 1030}) {
    const Config config{.vocab_size = kVocab, .d_model = 12, .n_layer = 1, .d_inner = inner};
    expect_like_the_cpu(model_of(mx::float32, config), tokens_of(1, 9), {}, 2e-5f);
  }
}

// Parts of weights are made once, and again where somebody may have changed them.
TEST(GpuPrompt, PartsOfWeightsAreKeptUntilSomebodyVisits) {
  MambaLM model = model_of(mx::float32);
  const GpuPaths gpu;
  const auto kept = [&] {
    int count = 0;
    model.visit_linears("", [&](const std::string&, nn::Linear& layer) { count += layer.operand ? 1 : 0; });
    return count;
  };
  EXPECT_EQ(kept(), 0);
  model.prepare();
  EXPECT_EQ(kept(), 3 * 4);
  State state = model.initial_state();
  const mx::array before = model.prefill(tokens_of(1, 20), state);
  model.visit("", [](const std::string&, mx::array& value) { value = mx::multiply(value, mx::array(0.5f)); });
  EXPECT_EQ(kept(), 0);
  model.prepare();
  state = model.initial_state();
  EXPECT_FALSE(same_bits(model.prefill(tokens_of(1, 20), state), before));
  MambaLM narrow = model_of(mx::bfloat16);
  narrow.prepare();
  narrow.visit_linears("", [&](const std::string&, nn::Linear& layer) {
    EXPECT_EQ(layer.operand->transposed(mx::default_stream(mx::Device::cpu)).shape(),
              mx::Shape({layer.columns(), layer.rows()}));
  });
}

}  // namespace
}  // namespace mamba::models
