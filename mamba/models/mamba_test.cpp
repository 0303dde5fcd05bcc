// What must hold of the forward pass whatever the weights: pieces equal the whole, company and padding change nothing.
// Numbers against PyTorch's are in tests/golden.
#include "mamba/models/mamba.h"

#include <gtest/gtest.h>
#include <mlx/memory.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include "mamba/models/initialize.h"

namespace mamba::models {
namespace {

namespace mx = mlx::core;

Config awkward_config() {
  Config config;
  config.vocab_size = 53;
  config.d_model = 37;
  config.n_layer = 3;
  config.d_state = 8;
  config.d_conv = 3;
  config.initializer_range = 1.0;
  return config;
}

MambaLM awkward_model(Config config = awkward_config()) {
  MambaLM model(config);
  initialize(model, 3);
  model.prepare();
  return model;
}

std::vector<int32_t> some_tokens(int count, uint64_t seed) {
  mx::array ids = mx::random::randint(0, 53, {count}, mx::int32, mx::random::key(seed));
  mx::eval(ids);
  return {ids.data<int32_t>(), ids.data<int32_t>() + count};
}

mx::array row(const std::vector<int32_t>& tokens) {
  return mx::array(tokens.begin(), {1, static_cast<int>(tokens.size())}, mx::int32);
}

float largest_difference(const mx::array& a, const mx::array& b) {
  return mx::max(mx::abs(mx::subtract(a, b))).item<float>();
}

void expect_same_state(const State& a, const State& b) {
  for (size_t i = 0; i < a.layers.size(); ++i) {
    EXPECT_TRUE(mx::array_equal(a.layers[i].conv, b.layers[i].conv).item<bool>()) << "layer " << i;
    EXPECT_TRUE(mx::array_equal(a.layers[i].ssm, b.layers[i].ssm).item<bool>()) << "layer " << i;
  }
}

TEST(MambaLM, AnyCutGivesTheSameNumbers) {
  const MambaLM model = awkward_model();
  const std::vector<int32_t> tokens = some_tokens(103, 1);
  State whole_state = model.initial_state();
  const mx::array whole = model.forward(row(tokens), whole_state);
  ASSERT_EQ(whole.shape(), (mx::Shape{1, 103, 53}));
  for (const int step : {1, 2, 7, 60}) {
    State state = model.initial_state();
    std::vector<mx::array> parts;
    for (size_t i = 0; i < tokens.size(); i += static_cast<size_t>(step)) {
      const size_t end = std::min(tokens.size(), i + static_cast<size_t>(step));
      parts.push_back(model.forward(
          row({tokens.begin() + static_cast<int64_t>(i), tokens.begin() + static_cast<int64_t>(end)}), state));
    }
    EXPECT_LT(largest_difference(mx::concatenate(parts, 1), whole), 2e-5f) << "step " << step;
    for (size_t i = 0; i < state.layers.size(); ++i) {
      EXPECT_LT(largest_difference(state.layers[i].ssm, whole_state.layers[i].ssm), 2e-5f);
    }
  }
}

TEST(MambaLM, PrefillIsTheLastRowOfForwardAcrossChunks) {
  const MambaLM model = awkward_model();
  for (const int count : {1, 2, MambaLM::kChunk, MambaLM::kChunk + 1, 2 * MambaLM::kChunk + 77}) {
    const std::vector<int32_t> tokens = some_tokens(count, 2);
    State a = model.initial_state();
    State b = model.initial_state();
    const mx::array all = model.forward(row(tokens), a);
    const mx::array last = model.prefill(row(tokens), b);
    EXPECT_LT(largest_difference(mx::slice(all, {0, count - 1, 0}, {1, count, 53}), mx::reshape(last, {1, 1, 53})),
              1e-5f);
    expect_same_state(a, b);
  }
}

TEST(MambaLM, EvaluatingEachLayerChangesNoBit) {
  const MambaLM model = awkward_model();
  const mx::array tokens = row(some_tokens(90, 6));
  const auto [expected, expected_state] = model.hidden(tokens, model.initial_state());
  const auto [got, state] = model.hidden(tokens, model.initial_state(), {.evaluate = true});
  EXPECT_TRUE(mx::array_equal(got, expected).item<bool>());
  expect_same_state(state, expected_state);
}

TEST(MambaLM, APromptTakesTheMemoryOfAFewLayers) {
  Config config = awkward_config();
  config.d_model = 128;
  config.n_layer = 48;
  const MambaLM model = awkward_model(config);
  State state = model.initial_state();
  const size_t before = mx::get_active_memory();
  mx::reset_peak_memory();
  model.prefill(row(some_tokens(512, 7)), state);
  // What one layer gives: in_proj's halves, convolution, delta, scan, norm, sum, out_proj.
  const size_t layer = size_t{512} * sizeof(float) * (512 + 3 * 256 + 3 * 128);
  EXPECT_LT(mx::get_peak_memory() - before, 4 * layer);
}

TEST(MambaLM, PaddedRowsGetExactlyWhatTheyGetAlone) {
  const MambaLM model = awkward_model();
  const std::vector<int> lengths = {1, 40, 3, MambaLM::kChunk + 5, 0, 17};
  const int longest = MambaLM::kChunk + 9;
  const auto batch = static_cast<int>(lengths.size());
  for (const bool left : {false, true}) {
    std::vector<int32_t> padded(static_cast<size_t>(batch) * static_cast<size_t>(longest), 11);
    Spans spans;
    for (size_t b = 0; b < lengths.size(); ++b) {
      const int begin = left ? longest - lengths[b] : 0;
      const std::vector<int32_t> tokens = some_tokens(std::max(lengths[b], 1), 100 + b);
      std::copy_n(tokens.begin(), lengths[b], padded.begin() + static_cast<int64_t>(b) * longest + begin);
      spans.push_back({begin, begin + lengths[b]});
    }
    const mx::array input(padded.begin(), {batch, longest}, mx::int32);
    State together = model.initial_state(batch);
    const mx::array logits = model.forward(input, together, {.spans = spans});
    State prefilled = model.initial_state(batch);
    const mx::array last = model.prefill(input, prefilled, {.spans = spans});
    expect_same_state(together, prefilled);
    for (int b = 0; b < batch; ++b) {
      const int length = lengths[static_cast<size_t>(b)];
      if (length == 0) {
        expect_same_state(together.select({b}), model.initial_state());
        continue;
      }
      State alone = model.initial_state();
      const mx::array expected = model.forward(row(some_tokens(length, 100 + static_cast<uint64_t>(b))), alone);
      const Span span = spans[static_cast<size_t>(b)];
      EXPECT_TRUE(mx::array_equal(mx::slice(logits, {b, span.begin, 0}, {b + 1, span.end, 53}), expected).item<bool>())
          << (left ? "left" : "right") << " padded row " << b;
      expect_same_state(together.select({b}), alone);
      EXPECT_LT(largest_difference(mx::slice(last, {b, 0}, {b + 1, 53}),
                                   mx::reshape(mx::slice(expected, {0, length - 1, 0}, {1, length, 53}), {1, 53})),
                1e-5f);
    }
  }
}

TEST(MambaLM, BatchedStepsEqualStepsAlone) {
  const MambaLM model = awkward_model();
  constexpr int kBatch = 19;
  State together = model.initial_state(kBatch);
  std::vector<State> alone(kBatch, model.initial_state());
  for (uint64_t step = 0; step < 5; ++step) {
    const std::vector<int32_t> tokens = some_tokens(kBatch, step);
    const mx::array logits = model.forward(mx::array(tokens.begin(), {kBatch, 1}, mx::int32), together);
    for (int b = 0; b < kBatch; ++b) {
      const mx::array expected = model.forward(row({tokens[static_cast<size_t>(b)]}), alone[static_cast<size_t>(b)]);
      ASSERT_TRUE(mx::array_equal(mx::slice(logits, {b, 0, 0}, {b + 1, 1, 53}), expected).item<bool>()) << b;
    }
  }
}

TEST(MambaLM, StateIsAValue) {
  const MambaLM model = awkward_model();
  State state = model.initial_state();
  model.prefill(row(some_tokens(9, 1)), state);
  const State kept = state;
  const mx::array first = model.forward(row({1, 2, 3}), state);
  State again = kept;
  const mx::array second = model.forward(row({1, 2, 3}), again);
  EXPECT_TRUE(mx::array_equal(first, second).item<bool>());
  expect_same_state(state, again);
}

TEST(MambaLM, LaterTokensDoNotChangeEarlierLogits) {
  const MambaLM model = awkward_model();
  std::vector<int32_t> tokens = some_tokens(50, 4);
  State a = model.initial_state();
  const mx::array before = model.forward(row(tokens), a);
  tokens[30] = (tokens[30] + 1) % 53;
  State b = model.initial_state();
  const mx::array after = model.forward(row(tokens), b);
  EXPECT_TRUE(mx::array_equal(mx::slice(before, {0, 0, 0}, {1, 30, 53}), mx::slice(after, {0, 0, 0}, {1, 30, 53}))
                  .item<bool>());
  EXPECT_GT(largest_difference(mx::slice(before, {0, 30, 0}, {1, 50, 53}), mx::slice(after, {0, 30, 0}, {1, 50, 53})),
            1e-4f);
}

TEST(MambaLM, ResetsSeparatePackedDocuments) {
  const MambaLM model = awkward_model();
  const std::vector<int32_t> first = some_tokens(23, 5);
  const std::vector<int32_t> second = some_tokens(31, 6);
  std::vector<int32_t> packed = first;
  packed.insert(packed.end(), second.begin(), second.end());
  std::vector<uint8_t> resets(packed.size(), 0);
  resets[first.size()] = 1;
  State state = model.initial_state();
  const mx::array together = model.forward(
      row(packed), state, {.resets = mx::array(resets.begin(), {1, static_cast<int>(resets.size())}, mx::uint8)});
  State alone = model.initial_state();
  const mx::array expected = model.forward(row(second), alone);
  EXPECT_LT(largest_difference(mx::slice(together, {0, 23, 0}, {1, 54, 53}), expected), 2e-5f);
}

TEST(MambaLM, SixteenBitWeightsStayClose) {
  for (const mx::Dtype dtype : {mx::bfloat16, mx::float16}) {
    MambaLM exact = awkward_model();
    MambaLM narrow = awkward_model();
    narrow.visit("", [&](const std::string& path, mx::array& value) {
      if (value.ndim() == 2 && !path.ends_with("A_log")) {
        value = mx::astype(value, dtype);
      }
    });
    narrow.prepare();
    EXPECT_EQ(narrow.dtype(), dtype);
    const std::vector<int32_t> tokens = some_tokens(300, 8);
    State a = exact.initial_state();
    State b = narrow.initial_state();
    const mx::array expected = exact.forward(row(tokens), a);
    const mx::array got = narrow.forward(row(tokens), b);
    const float scale = mx::max(mx::abs(expected)).item<float>();
    EXPECT_LT(largest_difference(expected, got), scale * (dtype == mx::bfloat16 ? 0.06f : 0.008f));
    EXPECT_EQ(got.dtype(), mx::float32);
  }
}

TEST(MambaLM, MisuseIsNamed) {
  const MambaLM model = awkward_model();
  State state = model.initial_state(2);
  EXPECT_THROW(model.forward(row({1, 2}), state), Error);
  State one = model.initial_state();
  EXPECT_THROW(model.forward(row({1, 2}), one, {.spans = Spans{{0, 3}}}), Error);
  EXPECT_THROW(model.forward(row({1, 2}), one, {.spans = Spans{{0, 1}, {0, 1}}}), Error);
  EXPECT_THROW(model.check_tokens(std::vector<int32_t>{}), UsageError);
  EXPECT_THROW(model.check_tokens(std::vector<int32_t>{0, 53}), UsageError);
  EXPECT_THROW(model.check_tokens(std::vector<int32_t>{-1}), UsageError);
  EXPECT_NO_THROW(model.check_tokens(std::vector<int32_t>{0, 52}));
}

}  // namespace
}  // namespace mamba::models
