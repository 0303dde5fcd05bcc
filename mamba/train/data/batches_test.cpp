#include "mamba/train/data/batches.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "mamba/train/data/data_testing.h"
#include "mamba/train/data/permutation.h"

namespace mamba::train {
namespace {

namespace mx = mlx::core;
using testing::HasSubstr;

// Token i of the stream is i.
Windows counting(int64_t tokens, int64_t length) {
  std::vector<int32_t> ids(static_cast<size_t>(tokens));
  std::iota(ids.begin(), ids.end(), 0);
  return {Dataset::from_tokens(std::move(ids), tokens), length};
}

std::vector<int32_t> values(mx::array a) {
  mx::eval(a);
  return {a.data<int32_t>(), a.data<int32_t>() + a.size()};
}

// The windows that a batch shows, by the first token of each row.
std::vector<int64_t> windows_of(const Batch& batch) {
  const std::vector<int32_t> tokens = values(batch.tokens);
  const auto length = static_cast<size_t>(batch.tokens.shape(1));
  std::vector<int64_t> out;
  for (size_t at = 0; at < tokens.size(); at += length) {
    out.push_back(tokens[at] / static_cast<int32_t>(length));
  }
  return out;
}

TEST(Batches, InOrderRowsAreConsecutiveWindowsAndWrapAround) {
  for (const int64_t tokens : {36, 37, 40}) {  // W = floor((T - 1) / L): 7, 7 and 7; the 36th token is a target only
    const Batches batches(counting(tokens, 5), {.batch_size = 3, .shuffle = false});
    ASSERT_EQ(batches.windows().count(), 7);
    EXPECT_EQ(batches.per_epoch(), 3);
    for (int64_t s = 0; s < 9; ++s) {
      const Batch batch = batches.at(s);
      ASSERT_EQ(batch.tokens.shape(), (mx::Shape{3, 5}));
      ASSERT_EQ(batch.tokens.dtype(), mx::int32);
      ASSERT_EQ(batch.targets.dtype(), mx::int32);
      EXPECT_FALSE(batch.resets.has_value());
      EXPECT_EQ(batch.target_count, 15);
      EXPECT_FALSE(batch.continues);
      const std::vector<int32_t> ids = values(batch.tokens);
      const std::vector<int32_t> targets = values(batch.targets);
      for (size_t i = 0; i < 15; ++i) {
        const int64_t w = (s * 3 + static_cast<int64_t>(i) / 5) % 7;
        EXPECT_EQ(ids[i], 5 * w + static_cast<int64_t>(i) % 5);
        EXPECT_EQ(targets[i], ids[i] + 1);
      }
    }
    EXPECT_DOUBLE_EQ(batches.epoch_of(7), 3.0);
  }
}

TEST(Batches, EveryEpochShowsEveryWindowOnceInAnotherOrder) {
  for (const int64_t count : {1, 2, 3, 7, 64, 65, 1000}) {
    const Batches batches(counting(count * 2 + 1, 2), {.batch_size = 3, .shuffle = true, .seed = 5});
    std::vector<int64_t> order;
    for (int64_t s = 0; static_cast<int64_t>(order.size()) < 2 * count; ++s) {
      const std::vector<int64_t> windows = windows_of(batches.at(s));
      order.insert(order.end(), windows.begin(), windows.end());
    }
    const std::vector<int64_t> first(order.begin(), order.begin() + count);
    const std::vector<int64_t> second(order.begin() + count, order.begin() + 2 * count);
    EXPECT_EQ(std::set<int64_t>(first.begin(), first.end()).size(), static_cast<size_t>(count));
    EXPECT_EQ(std::set<int64_t>(second.begin(), second.end()).size(), static_cast<size_t>(count));
    if (count >= 64) {
      EXPECT_NE(first, second);
      EXPECT_FALSE(std::is_sorted(first.begin(), first.end()));
    }
  }
}

TEST(Batches, ABatchDependsOnItsNumberAndTheSeedAlone) {
  const Batches a(counting(1001, 4), {.batch_size = 4, .seed = 1});
  const Batches b(counting(1001, 4), {.batch_size = 4, .seed = 1});
  const Batches c(counting(1001, 4), {.batch_size = 4, .seed = 2});
  const std::vector<int32_t> late = values(a.at(100).tokens);
  a.at(3);
  EXPECT_EQ(values(b.at(100).tokens), late);
  EXPECT_EQ(values(a.at(100).tokens), late);
  EXPECT_NE(values(c.at(100).tokens), late);
}

TEST(Batches, CarriedRowsGoOnWhereTheyEnded) {
  const Batches batches(counting(5 * 11 + 1, 5), {.batch_size = 3, .carry_state = true});  // 11 windows, 3 per row
  EXPECT_EQ(batches.per_epoch(), 3);
  for (int64_t s = 0; s < 7; ++s) {
    const Batch batch = batches.at(s);
    EXPECT_EQ(windows_of(batch), (std::vector<int64_t>{s % 3, 3 + s % 3, 6 + s % 3}));
    EXPECT_EQ(batch.continues, s % 3 != 0);
    EXPECT_EQ(batches.continues(s), batch.continues);
  }
}

TEST(Batches, MoreRowsThanWindowsWrap) {
  for (const bool carry_state : {false, true}) {
    const Batches batches(counting(2 * 4 + 1, 4), {.batch_size = 5, .shuffle = false, .carry_state = carry_state});
    EXPECT_EQ(batches.per_epoch(), 1);
    EXPECT_EQ(windows_of(batches.at(0)), (std::vector<int64_t>{0, 1, 0, 1, 0}));
    EXPECT_EQ(windows_of(batches.at(1)),
              carry_state ? (std::vector<int64_t>{0, 1, 0, 1, 0}) : (std::vector<int64_t>{1, 0, 1, 0, 1}));
  }
}

TEST(Batches, RefusesWhatMakesNoSense) {
  EXPECT_THROW(Batches(counting(11, 5), {.batch_size = 0}), UsageError);
  EXPECT_THROW(Batches(counting(11, 5), {.batch_size = 1 << 30}), UsageError);
  EXPECT_THAT(message_of([] { counting(5, 5); }), HasSubstr("has 5 tokens but one window of 5 needs 6"));
  EXPECT_THROW(counting(5, 0), UsageError);
  EXPECT_NO_THROW(counting(6, 5));
}

TEST(Permutation, IsUniformEnough) {
  // Where each of 5 values lands over many epochs; 5 sigma of a binomial.
  constexpr int kEpochs = 20'000;
  int counts[5][5] = {};
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    const Permutation permutation(5, 42, static_cast<uint64_t>(epoch));
    for (int64_t i = 0; i < 5; ++i) {
      ++counts[i][permutation(i)];
    }
  }
  for (const auto& row : counts) {
    for (const int count : row) {
      EXPECT_NEAR(count, kEpochs / 5, 5 * 57);
    }
  }
}

TEST(Permutation, StaysTheSameFromVersionToVersion) {
  const Permutation permutation(10, 7, 3);
  std::vector<int64_t> order;
  for (int64_t i = 0; i < 10; ++i) {
    order.push_back(permutation(i));
  }
  EXPECT_EQ(order, (std::vector<int64_t>{7, 3, 6, 5, 2, 8, 4, 1, 9, 0}));  // computed apart, in Python
}

}  // namespace
}  // namespace mamba::train
