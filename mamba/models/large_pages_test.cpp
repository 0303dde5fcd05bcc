#include "mamba/models/large_pages.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cstring>
#include <map>
#include <string>

#include "mamba/base/file.h"
#include "mamba/base/temporary_directory.h"
#include "mamba/models/checkpoint.h"
#include "mamba/models/initialize.h"
#include "mamba/models/registry.h"
#include "mamba/ops/model_step/cpu_step.h"

namespace mamba::models {
namespace {

namespace mx = mlx::core;

Config config_of(int width, bool tied) {
  Config config;
  config.vocab_size = 1001;
  config.d_model = width;
  config.d_inner = 2 * width;
  config.d_state = 4;
  config.dt_rank = 3;
  config.n_layer = 2;
  config.tie_embeddings = tied;
  return config;
}

// Matrices of a model that lie in a mapped file, and all of them.
std::pair<int, int> in_files(MambaLM& model) {
  std::pair<int, int> counts;
  model.visit_matrices("", [&](const std::string&, nn::Matrix& matrix) {
    matrix.weight.eval();
    counts.first += in_mapped_file(matrix.weight.data<char>()) ? 1 : 0;
    ++counts.second;
  });
  return counts;
}

std::string bytes_of(mx::array a) {
  a.eval();
  return {a.data<char>(), a.nbytes()};
}

std::map<std::string, std::string> parameters(MambaLM& model) {
  std::map<std::string, std::string> out;
  model.visit("", [&](const std::string& path, mx::array& value) { out.emplace(path, bytes_of(value)); });
  return out;
}

std::string logits_of(const MambaLM& model, int tokens) {
  State state = model.initial_state();
  return bytes_of(model.forward(mx::reshape(mx::arange(3, 3 + tokens, mx::int32), {1, tokens}), state));
}

TEST(LargePages, HoldWhatTheFileDid) {
  for (const bool tied : {true, false}) {
    SCOPED_TRACE(::testing::Message() << "tied " << tied);
    const TemporaryDirectory folder;
    MambaLM written(config_of(217, tied));
    initialize(written, 3);
    save_model(written, folder.path());
    const std::map<std::string, std::string> before = parameters(written);

    MambaLM model = load_model(folder.path());
    const auto [mapped, all] = in_files(model);
    ASSERT_GT(mapped, 0);
    const std::string logits = logits_of(model, 37);
    move_to_large_pages(model);
    EXPECT_EQ(model.steps_stacked(1), ops::can_step_on_cpu(mx::to_stream({})));
    EXPECT_EQ(in_files(model), std::pair(0, all));
    EXPECT_EQ(logits_of(model, 37), logits);
    EXPECT_EQ(parameters(model), before);
    move_to_large_pages(model);
    EXPECT_EQ(parameters(model), before);
  }
}

TEST(LargePages, LeaveSmallModelsInTheirFile) {
  const TemporaryDirectory folder;
  MambaLM written(config_of(16, true));
  initialize(written, 3);
  save_model(written, folder.path());
  MambaLM model = load_model(folder.path());
  const int mapped = in_files(model).first;
  ASSERT_GT(mapped, 0);
  move_to_large_pages(model);
  EXPECT_EQ(model.steps_stacked(1), ops::can_step_on_cpu(mx::to_stream({})));
  EXPECT_EQ(in_files(model).first, mapped);
}

}  // namespace
}  // namespace mamba::models
