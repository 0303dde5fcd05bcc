// Whole models against transformers' MambaForCausalLM, float32 on a CPU: tests/golden/models/README.md tells what each
// case holds. The tolerance is absolute, on logits of order 1 to 10.
#include <gtest/gtest.h>
#include <mlx/io.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "mamba/base/json.h"
#include "mamba/generate/generator.h"
#include "mamba/generate/sampler.h"
#include "mamba/generate/score.h"
#include "mamba/models/registry.h"
#include "tests/golden/in_pieces.h"

namespace mamba {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;
using testing::in_pieces;
using testing::largest_difference;

constexpr float kTolerance = 2e-4f;

using Tensors = std::unordered_map<std::string, mx::array>;

const fs::path& golden_folder() {
  static const fs::path folder = fs::path(MAMBA_SOURCE_DIR) / "tests" / "golden";
  return folder;
}

std::vector<std::string> cases() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(golden_folder() / "models")) {
    const bool has_weights = fs::exists(entry.path() / "config.json") && entry.path().filename() != "long";
    if (has_weights && fs::exists(entry.path() / "golden.safetensors")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

Tensors golden_of(const std::string& name) {
  return mx::load_safetensors((golden_folder() / "models" / name / "golden.safetensors").string()).first;
}

class ModelGolden : public ::testing::TestWithParam<std::string> {
 protected:
  ModelGolden() : golden(golden_of(GetParam())), model(models::load_model(golden_folder() / "models" / GetParam())) {}

  Tensors golden;
  models::MambaLM model;
};

TEST_P(ModelGolden, LogitsOfOneForwardOfChunksAndOfSingleTokens) {
  int compared = 0;
  for (const auto& [name, tokens] : golden) {
    if (!name.ends_with(".tokens") || golden.count(name.substr(0, 1) + ".logits") == 0) {
      continue;
    }
    const mx::array& expected = golden.at(name.substr(0, 1) + ".logits");
    const float scale = mx::max(mx::abs(expected)).item<float>();
    EXPECT_GT(scale, 0.5f) << "logits near zero would hide differences";
    for (const int step : {100'000, 64, 7, 1}) {
      EXPECT_LT(largest_difference(in_pieces(model, tokens, step), expected), kTolerance) << name << " step " << step;
    }
    ++compared;
  }
  EXPECT_GE(compared, 1);
}

// Cases in Hugging Face's layout hold more than logits.
class WholeModelGolden : public ModelGolden {};

TEST_P(WholeModelGolden, FinalHiddenStates) {
  const mx::array& tokens = golden.at("b.tokens");
  const mx::array hidden = model.hidden(tokens, model.initial_state(tokens.shape(0))).first;
  EXPECT_LT(largest_difference(hidden, golden.at("b.hidden.final")), kTolerance);
}

TEST_P(WholeModelGolden, GreedyText) {
  const mx::array prompts = mx::contiguous(golden.at("greedy.prompt"));
  const mx::array expected = mx::contiguous(golden.at("greedy.tokens"));
  mx::eval(prompts, expected);
  const int count = expected.shape(1);
  std::vector<generate::Request> requests;
  for (int row = 0; row < prompts.shape(0); ++row) {
    generate::Request request;
    const int32_t* first = prompts.data<int32_t>() + row * prompts.shape(1);
    request.prompt.assign(first, first + prompts.shape(1));
    request.sampling.temperature = 0;
    request.max_tokens = count;
    request.ignore_eos = true;
    requests.push_back(request);
  }
  const auto results = generate::generate(model, nullptr, requests);
  for (int row = 0; row < prompts.shape(0); ++row) {
    const int32_t* first = expected.data<int32_t>() + row * count;
    EXPECT_EQ(results[static_cast<size_t>(row)].tokens, std::vector<int32_t>(first, first + count)) << "row " << row;
  }
}

// Torch's own bfloat16 model sets the measure: ours must not stray further from float32 than it does.
TEST_P(WholeModelGolden, Bfloat16IsAsCloseToFloat32AsTorchs) {
  const models::MambaLM narrow = models::load_model(golden_folder() / "models" / GetParam(), mx::bfloat16);
  const mx::array& expected = golden.at("c.logits");
  const auto error = [&](const mx::array& got) {
    return mx::sqrt(mx::mean(mx::square(mx::subtract(got, expected)))).item<float>();
  };
  const float torchs = error(golden.at("c.logits_bfloat16"));
  EXPECT_GT(torchs, 0);
  for (const int step : {64, 1}) {
    EXPECT_LT(error(in_pieces(narrow, golden.at("c.tokens"), step)), 1.1f * torchs) << "step " << step;
  }
}

std::string case_name(const ::testing::TestParamInfo<std::string>& info) {
  return info.param;
}

INSTANTIATE_TEST_SUITE_P(Cases, ModelGolden, ::testing::ValuesIn(cases()), case_name);

std::vector<std::string> whole_cases() {
  std::vector<std::string> names = cases();
  std::erase_if(names, [](const std::string& name) { return name.starts_with("state_spaces"); });
  return names;
}

INSTANTIATE_TEST_SUITE_P(Cases, WholeModelGolden, ::testing::ValuesIn(whole_cases()), case_name);

TEST(ModelGoldenCases, AreThere) {
  EXPECT_GE(cases().size(), 7u);
}

// The error of bfloat16 must not grow along a text: the state is float32.
TEST(LongGolden, Bfloat16DoesNotDriftOver2000Tokens) {
  const Tensors golden = golden_of("long");
  const fs::path folder = golden_folder() / "models" / "long";
  const auto at_places = [&](const models::MambaLM& model, int step) {
    const mx::array logits = mx::reshape(in_pieces(model, golden.at("tokens"), step), {2000, -1});
    return mx::take(logits, golden.at("places"), 0);
  };
  EXPECT_LT(largest_difference(at_places(models::load_model(folder), 100'000), golden.at("logits")), kTolerance);
  const mx::array torchs = mx::abs(mx::subtract(golden.at("logits_bfloat16"), golden.at("logits")));
  const models::MambaLM narrow = models::load_model(folder, mx::bfloat16);
  const int places = golden.at("places").shape(0);
  const int quarter = places / 4;
  for (const int step : {512, 1}) {
    const mx::array error = mx::abs(mx::subtract(at_places(narrow, step), golden.at("logits")));
    EXPECT_LT(mx::mean(error).item<float>(), 1.1f * mx::mean(torchs).item<float>()) << "step " << step;
    EXPECT_LT(mx::max(error).item<float>(), 1.5f * mx::max(torchs).item<float>()) << "step " << step;
    const auto mean_of = [&](int first, int last) {
      return mx::mean(mx::slice(error, {first, 0}, {last, error.shape(1)})).item<float>();
    };
    EXPECT_LT(mean_of(places - quarter, places), 1.5f * mean_of(0, quarter)) << "step " << step;
  }
}

class ShippedModel : public ::testing::Test {
 protected:
  ShippedModel()
      : golden(golden_of("shipped")),
        model(models::load_model(fs::path(MAMBA_SOURCE_DIR) / "assets" / "shakespeare")) {}

  std::vector<int32_t> ids(const std::string& name) {
    mx::array values = mx::contiguous(golden.at(name));
    mx::eval(values);
    return {values.data<int32_t>(), values.data<int32_t>() + values.size()};
  }

  Tensors golden;
  models::MambaLM model;
};

TEST_F(ShippedModel, LogitsAndLosses) {
  const mx::array& tokens = golden.at("tokens");
  for (const int step : {100'000, 100, 1}) {
    const mx::array logits = mx::reshape(in_pieces(model, tokens, step), {tokens.shape(1), -1});
    EXPECT_LT(largest_difference(mx::take(logits, golden.at("places"), 0), golden.at("logits")), kTolerance)
        << "step " << step;
  }
  mx::array nats = golden.at("nats");
  mx::eval(nats);
  const generate::Score score = generate::score(model, ids("tokens"));
  ASSERT_EQ(score.logprobs.size(), nats.size());
  for (size_t i = 0; i < nats.size(); ++i) {
    EXPECT_NEAR(-score.logprobs[i], nats.data<float>()[i], kTolerance) << i;
  }
}

TEST_F(ShippedModel, GreedyTextOfUnequalPromptsTogetherAndAlone) {
  std::vector<generate::Request> requests;
  std::vector<std::vector<int32_t>> expected;
  for (int i = 0; golden.count("greedy." + std::to_string(i) + ".prompt") > 0; ++i) {
    const std::string name = "greedy." + std::to_string(i);
    generate::Request request;
    request.prompt = ids(name + ".prompt");
    request.sampling.temperature = 0;
    request.ignore_eos = true;
    expected.push_back(ids(name + ".tokens"));
    request.max_tokens = static_cast<int>(expected.back().size());
    requests.push_back(request);
  }
  ASSERT_GE(requests.size(), 3u);
  const auto together = generate::generate(model, nullptr, requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(together[i].tokens, expected[i]) << "prompt " << i;
    EXPECT_EQ(generate::generate(model, nullptr, {requests[i]}).front().tokens, expected[i]) << "prompt " << i;
  }
}

TEST(SamplingGolden, DistributionsAreThoseOfTransformers) {
  const Json golden = read_json(golden_folder() / "sampling.json");
  int compared = 0;
  for (const Json& one : golden.at("cases")) {
    generate::SamplingParams params;
    const Json& settings = one.at("settings");
    params.temperature = settings.value("temperature", 1.0f);
    params.top_k = settings.value("top_k", 0);
    params.top_p = settings.value("top_p", 1.0f);
    params.min_p = settings.value("min_p", 0.0f);
    params.repetition_penalty = settings.value("repetition_penalty", 1.0f);
    const auto logits = one.at("logits").get<std::vector<float>>();
    const auto previous = one.at("previous").get<std::vector<int32_t>>();
    const auto probabilities = one.at("probabilities").get<std::vector<double>>();
    std::vector<double> got(logits.size(), 0);
    for (const auto& [token, probability] : generate::Sampler(params).distribution(logits, previous)) {
      got[static_cast<size_t>(token)] = probability;
    }
    // Which of several equal tokens falls off the edge is left to the sort: compare those as a set.
    const auto by_logit = [&](const std::vector<double>& values) {
      std::vector<std::tuple<float, bool, double>> rows;
      for (size_t i = 0; i < values.size(); ++i) {
        const bool seen = std::find(previous.begin(), previous.end(), static_cast<int32_t>(i)) != previous.end();
        rows.emplace_back(logits[i], seen && params.repetition_penalty != 1.0f, values[i]);
      }
      std::sort(rows.begin(), rows.end());
      return rows;
    };
    const auto expected_rows = by_logit(probabilities);
    const auto got_rows = by_logit(got);
    for (size_t i = 0; i < got_rows.size(); ++i) {
      EXPECT_NEAR(std::get<2>(got_rows[i]), std::get<2>(expected_rows[i]), 1e-6) << json_text(one);
    }
    ++compared;
  }
  EXPECT_GE(compared, 30);
}

}  // namespace
}  // namespace mamba
