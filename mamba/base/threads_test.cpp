#include "mamba/base/threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace mamba {
namespace {

class Threads : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { set_num_threads(GetParam()); }
  void TearDown() override { set_num_threads(0); }
};

TEST_P(Threads, EveryItemOnceInRangesNoLargerThanTheGrain) {
  for (const int64_t count : {1, 2, 7, 64, 1000, 4097}) {
    for (const int64_t grain : {1, 3, 64, 5000}) {
      std::vector<std::atomic<int>> hits(static_cast<size_t>(count));
      std::atomic<bool> too_large{false};
      parallel_for(count, grain, [&](int64_t begin, int64_t end) {
        if (end - begin > grain) {
          too_large = true;
        }
        for (int64_t i = begin; i < end; ++i) {
          hits[static_cast<size_t>(i)].fetch_add(1);
        }
      });
      EXPECT_FALSE(too_large);
      for (const auto& hit : hits) {
        ASSERT_EQ(hit.load(), 1);
      }
    }
  }
  parallel_for(0, 1, [](int64_t, int64_t) { FAIL(); });
}

TEST_P(Threads, ManySmallJobsWithPausesBetween) {
  std::atomic<int64_t> sum{0};
  for (int job = 0; job < 3000; ++job) {
    parallel_for(16, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
    if (job % 500 == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));  // workers fall asleep and must wake again
    }
  }
  EXPECT_EQ(sum, 3000 * 16);
}

TEST_P(Threads, NestedAndConcurrentCallsRunInline) {
  std::atomic<int64_t> sum{0};
  const auto nested = [&] {
    for (int i = 0; i < 200; ++i) {
      parallel_for(8, 1, [&](int64_t, int64_t) {
        parallel_for(10, 2, [&](int64_t begin, int64_t end) { sum += end - begin; });
      });
    }
  };
  std::thread other(nested);
  nested();
  other.join();
  EXPECT_EQ(sum, 2 * 200 * 8 * 10);
}

TEST_P(Threads, PhasesFollowOneAnother) {
  constexpr int64_t kCount = 1003;
  for (int round = 0; round < 300; ++round) {
    std::vector<int64_t> first(kCount), second(kCount);
    int64_t sum = 0;
    std::atomic<bool> whole_grains{true};
    const auto fill = [&](int64_t begin, int64_t end) {
      const bool whole = begin % 7 == 0 && (end % 7 == 0 || end == kCount);
      whole_grains = whole_grains && whole;
      for (int64_t i = begin; i < end; ++i) {
        first[static_cast<size_t>(i)] += i;
      }
    };
    const auto add = [&] {
      for (const int64_t value : first) {
        sum += value;
      }
    };
    const auto spread = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        second[static_cast<size_t>(i)] = sum + first[static_cast<size_t>(kCount - 1 - i)];
      }
    };
    int ends = 0;
    const auto end = [&] { ++ends; };
    const auto last = [&](int64_t, int64_t) { ++ends; };
    const Phase phases[] = {{.count = kCount, .grain = 7, .body = fill, .then = add},
                            {.count = kCount, .grain = 1, .body = spread},
                            {.count = 1, .grain = 100, .body = last, .then = end}};
    parallel_phases(phases);
    EXPECT_TRUE(whole_grains);
    EXPECT_EQ(ends, 2);
    for (int64_t i = 0; i < kCount; ++i) {
      ASSERT_EQ(second[static_cast<size_t>(i)], kCount * (kCount - 1) / 2 + kCount - 1 - i);
    }
  }
}

// Threads that wait give way to those that have work, even where there are more of both than processors.
TEST_P(Threads, PhasesRunBesideOthers) {
  constexpr size_t kPhases = 100;
  std::atomic<bool> stop{false};
  std::vector<std::thread> others;
  for (int i = 0; i < 2; ++i) {
    others.emplace_back([&] {
      while (!stop) {
      }
    });
  }
  std::atomic<int64_t> sum{0};
  const auto body = [&](int64_t begin, int64_t end) { sum += end - begin; };
  const Phase phase{.count = 64, .grain = 4, .body = body};
  const std::vector<Phase> phases(kPhases, phase);
  for (int job = 0; job < 50; ++job) {
    parallel_phases(phases);
  }
  stop = true;
  for (std::thread& other : others) {
    other.join();
  }
  EXPECT_EQ(sum, 50 * 64 * int64_t{kPhases});
}

INSTANTIATE_TEST_SUITE_P(Counts, Threads, ::testing::Values(1, 2, 3, 8));

}  // namespace
}  // namespace mamba
