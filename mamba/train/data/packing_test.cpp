// Packing changes nothing: what a model says about an example does not depend on what else is in the window.
#include "mamba/train/data/packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <map>

#include "mamba/base/temporary_directory.h"
#include "mamba/models/initialize.h"
#include "mamba/text/tokenizer.h"
#include "mamba/train/data/batches.h"
#include "mamba/train/data/data_testing.h"

namespace mamba::train {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;
using testing::HasSubstr;

TEST(Packing, IsTightAndKeepsTheOrder) {
  const Packing packing(std::vector<int64_t>{3, 8, 2, 5, 10, 1, 1}, 10);
  // 3 + 2 + 5, 8 + 1 + 1 and 10 alone.
  ASSERT_EQ(packing.count(), 3);
  const auto items = [&](int64_t window) {
    const auto span = packing.items(window);
    return std::vector<int64_t>(span.begin(), span.end());
  };
  EXPECT_EQ(items(0), (std::vector<int64_t>{0, 2, 3}));
  EXPECT_EQ(items(1), (std::vector<int64_t>{1, 5, 6}));
  EXPECT_EQ(items(2), (std::vector<int64_t>{4}));
  EXPECT_EQ(Packing({}, 10).count(), 0);
}

class PackedExamples : public testing::Test {
 protected:
  std::shared_ptr<const Dataset> open(const std::string& lines) {
    write_file(folder_ / "a.jsonl", lines);
    return Dataset::open({folder_ / "a.jsonl"},
                         {.vocab_size = 65536, .tokenizer = kTokenizer, .cache = folder_ / "cache"});
  }
  static std::string line(const std::string& prompt, const std::string& completion) {
    return json_text(Json({{"prompt", prompt}, {"completion", completion}})) + "\n";
  }
  static std::string many(int count) {
    std::string lines;
    for (int i = 0; i < count; ++i) {
      std::string prompt;
      for (int j = 0; j < i * 7 % 13; ++j) {
        prompt += fmt::format("word {} ", i * j);
      }
      lines += line(prompt, fmt::format("answer {}{}", i, i % 3 == 0 ? " and so on" : ""));
    }
    return lines;
  }
  TemporaryDirectory folder_;
};

// The losses of all targets that count, in their order.
std::vector<float> losses(const models::MambaLM& model, const mx::array& tokens, const mx::array& targets,
                          const std::optional<mx::array>& resets) {
  const auto [hidden, state] =
      model.hidden(tokens, model.initial_state(tokens.shape(0)), {.spans = std::nullopt, .resets = resets});
  const mx::array logits = model.logits(hidden);
  const mx::array clean = mx::maximum(targets, mx::array(0));
  mx::array loss = mx::subtract(mx::logsumexp(logits, -1),
                                mx::squeeze(mx::take_along_axis(logits, mx::expand_dims(clean, -1), -1), -1));
  loss = mx::contiguous(loss);
  mx::array wanted = mx::contiguous(targets);
  mx::eval(loss, wanted);
  std::vector<float> out;
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (wanted.data<int32_t>()[i] != kIgnored) {
      out.push_back(loss.data<float>()[i]);
    }
  }
  return out;
}

TEST_F(PackedExamples, LossesArePreciselyThoseOfExamplesAlone) {
  const auto dataset = open(many(40));
  models::Config config;
  config.vocab_size = 2048;
  config.d_model = 36;
  config.n_layer = 2;
  models::MambaLM model(config);
  models::initialize(model, 3);
  const Windows windows(dataset, 101);
  EXPECT_EQ(windows.statistics().cut, 0);
  EXPECT_LT(windows.count(), 20);

  // By the example's tokens, since windows hold the examples in an order of their own.
  std::multimap<std::vector<int32_t>, std::vector<float>> alone;
  for (int64_t i = 0; i < dataset->examples().count(); ++i) {
    const auto length = static_cast<int>(dataset->examples().length(i));
    std::vector<int32_t> ids(static_cast<size_t>(length));
    dataset->examples().copy(i, length, ids.data());
    std::vector<int32_t> targets(ids.begin() + 1, ids.end());
    for (size_t j = 0; j < targets.size(); ++j) {
      targets[j] = dataset->examples().mask(i)[j + 1] != 0 ? targets[j] : kIgnored;
    }
    const std::vector<int32_t> inputs(ids.begin(), ids.end() - 1);
    // Padded, as a linear layer has another kernel, with other roundings, for sequences of few positions.
    std::vector<int32_t> padded = inputs;
    padded.resize(101, 0);
    targets.resize(101, kIgnored);
    alone.emplace(inputs, losses(model, mx::array(padded.begin(), {1, 101}, mx::int32),
                                 mx::array(targets.begin(), {1, 101}, mx::int32), std::nullopt));
  }
  int64_t compared = 0;
  const Batches batches(windows, {.batch_size = 3, .shuffle = false});
  for (int64_t w = 0; w < windows.count(); ++w) {
    std::vector<int32_t> tokens(101);
    std::vector<int32_t> targets(101);
    std::vector<uint8_t> resets(101);
    const int64_t count = windows.read(w, tokens.data(), targets.data(), resets.data());
    const mx::array reset_array(resets.begin(), {1, 101}, mx::uint8);
    const std::vector<float> packed = losses(model, mx::array(tokens.begin(), {1, 101}, mx::int32),
                                             mx::array(targets.begin(), {1, 101}, mx::int32), reset_array);
    ASSERT_EQ(packed.size(), static_cast<size_t>(count));
    std::vector<float> expected;
    for (size_t begin = 0; begin < 101 && resets[begin] != 0;) {
      size_t end = begin + 1;
      while (end < 101 && resets[end] == 0) {
        ++end;
      }
      // The last example of a window is followed by padding.
      auto found = alone.end();
      for (size_t length = end - begin; length > 0 && found == alone.end(); --length) {
        found = alone.find(
            {tokens.begin() + static_cast<int64_t>(begin), tokens.begin() + static_cast<int64_t>(begin + length)});
      }
      ASSERT_NE(found, alone.end());
      expected.insert(expected.end(), found->second.begin(), found->second.end());
      alone.erase(found);
      ++compared;
      begin = end;
    }
    EXPECT_EQ(packed, expected) << "window " << w;  // to the bit
  }
  EXPECT_EQ(compared, 40);
  EXPECT_TRUE(alone.empty());
  const Batch batch = batches.at(0);
  EXPECT_EQ(losses(model, batch.tokens, batch.targets, batch.resets).size(), static_cast<size_t>(batch.target_count));
}

TEST_F(PackedExamples, WindowsHoldWholeExamplesAndPadding) {
  const auto dataset = open(many(10));
  const Windows windows(dataset, 64);
  int64_t positions = 0;
  int64_t targets_wanted = 0;
  for (int64_t i = 0; i < 10; ++i) {
    positions += dataset->examples().length(i) - 1;
    const auto mask = dataset->examples().mask(i);
    targets_wanted += std::count(mask.begin() + 1, mask.end(), 1);
  }
  EXPECT_EQ(windows.statistics().padding, windows.count() * 64 - positions);
  std::vector<int32_t> tokens(64);
  std::vector<int32_t> targets(64);
  std::vector<uint8_t> resets(64);
  int64_t starts = 0;
  int64_t counted = 0;
  for (int64_t w = 0; w < windows.count(); ++w) {
    counted += windows.read(w, tokens.data(), targets.data(), resets.data());
    starts += std::count(resets.begin(), resets.end(), 1);
    EXPECT_EQ(resets[0], 1);
  }
  EXPECT_EQ(starts, 10);
  EXPECT_EQ(counted, targets_wanted);
}

TEST_F(PackedExamples, LongExamplesAreCutAndThoseWithoutATargetDropped) {
  const std::string words = "to be or not to be that is the question whether it is nobler in the mind to suffer";
  const auto dataset = open(line("a", "b") + line("x", words) + line(words, "y") + line("", "z"));
  const Windows windows(dataset, 8);
  EXPECT_EQ(windows.statistics().cut, 1);      // the second keeps its beginning
  EXPECT_EQ(windows.statistics().dropped, 1);  // the third has its answer behind the window's end
  EXPECT_EQ(windows.count(), 2);
  EXPECT_THAT(message_of([&] { Windows(open(line(words, "y")), 8); }),
              HasSubstr("none of 1 examples has a token to learn among its first 9"));
}

TEST_F(PackedExamples, SplitByExamples) {
  const auto dataset = open(many(40));
  const auto [training, held_out] = Windows(dataset, 101).split(0.2, 1);
  const auto starts = [](const Windows& windows) {
    std::vector<int32_t> tokens(101);
    std::vector<int32_t> targets(101);
    std::vector<uint8_t> resets(101);
    int64_t count = 0;
    for (int64_t w = 0; w < windows.count(); ++w) {
      windows.read(w, tokens.data(), targets.data(), resets.data());
      count += std::count(resets.begin(), resets.end(), 1);
    }
    return count;
  };
  EXPECT_EQ(starts(training), 32);
  EXPECT_EQ(starts(held_out), 8);
  EXPECT_THAT(message_of([&] { Windows(open(line("a", "b")), 8).split(0.5, 1); }), HasSubstr("one example alone"));
}

}  // namespace
}  // namespace mamba::train
