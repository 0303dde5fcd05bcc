// Training against transformers' MambaForCausalLM and torch.optim.AdamW, float32 on a CPU: the gradients of every
// parameter at the first step, and the losses of ten steps (tests/golden/models/README.md).
#include <gtest/gtest.h>
#include <mlx/io.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

#include "mamba/models/registry.h"
#include "mamba/train/objective.h"
#include "mamba/train/optimizer.h"

namespace mamba::train {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;

// Relative to the largest number of the tensor: torch and we add in other orders.
constexpr float kGradientTolerance = 1e-4f;
constexpr double kLossTolerance = 1e-3;  // ten steps let rounding grow

using Tensors = std::unordered_map<std::string, mx::array>;

fs::path folder_of(const std::string& name) {
  return fs::path(MAMBA_SOURCE_DIR) / "tests" / "golden" / "models" / name;
}

std::vector<std::string> cases() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder_of(""))) {
    if (fs::exists(entry.path() / "golden.safetensors") && fs::exists(entry.path() / "config.json") &&
        mx::load_safetensors((entry.path() / "golden.safetensors").string()).first.count("train.losses") != 0) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

class TrainGolden : public ::testing::TestWithParam<std::string> {
 protected:
  TrainGolden()
      : golden(mx::load_safetensors((folder_of(GetParam()) / "golden.safetensors").string()).first),
        model(models::load_model(folder_of(GetParam()), mx::float32)),
        trainable(Trainable::of(model)) {}

  // Rows of (steps, B, L + 1) token ids.
  Batch batch(int step) const {
    const mx::array& rows = golden.at("train.tokens");
    const int count = rows.shape(1);
    const int length = rows.shape(2) - 1;
    const auto cut = [&](int first) {
      const mx::array part = mx::slice(rows, {step, 0, first}, {step + 1, count, first + length});
      return mx::contiguous(mx::reshape(mx::astype(part, mx::int32), {count, length}));
    };
    return {cut(0), cut(1), std::nullopt, int64_t{count} * length};
  }

  Gradients gradients(int step, bool recompute) {
    const Batch rows = batch(step);
    Gradients out = loss_and_gradients(model, trainable, rows, model.initial_state(rows.tokens.shape(0)),
                                       static_cast<double>(rows.target_count), {.recompute = recompute});
    std::vector<mx::array> results = out.values;
    results.push_back(out.loss);
    mx::eval(results);
    return out;
  }

  Tensors golden;
  models::MambaLM model;
  Trainable trainable;
};

TEST_P(TrainGolden, GradientsOfEveryParameter) {
  for (const bool recompute : {false, true}) {
    const Gradients got = gradients(0, recompute);
    size_t next = 0;
    trainable.visit("", [&](const std::string& path, mx::array&) {
      mx::array want = golden.at("grad." + path);
      const mx::array& gradient = got.values[next++];
      ASSERT_EQ(gradient.shape(), want.shape()) << path;
      const float scale = mx::max(mx::abs(want)).item<float>();
      const float error = mx::max(mx::abs(mx::subtract(gradient, want))).item<float>();
      EXPECT_LE(error, kGradientTolerance * scale) << path << (recompute ? " with recompute" : "");
    });
  }
}

TEST_P(TrainGolden, LossesOfTenSteps) {
  mx::array losses = golden.at("train.losses");
  losses.eval();
  Optimizer optimizer(trainable, {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1});
  for (int step = 0; step < losses.shape(0); ++step) {
    Gradients got = gradients(step, false);
    EXPECT_NEAR(got.loss.item<float>(), losses.data<float>()[step], kLossTolerance) << "step " << step;
    optimizer.step(trainable, std::move(got.values), 3e-3, mx::array(1.0f));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, TrainGolden, ::testing::ValuesIn(cases()), [](const auto& test) { return test.param; });

}  // namespace
}  // namespace mamba::train
