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

INSTANTIATE_TEST_SUITE_P(Counts, Threads, ::testing::Values(1, 2, 3, 8));

}  // namespace
}  // namespace mamba
