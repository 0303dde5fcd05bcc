#include "mamba/base/sliced_work.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "mamba/base/threads.h"

namespace mamba {
namespace {

// Counts how often each slice is done, and in which order.
class Counting : public SlicedWork {
 public:
  explicit Counting(int64_t slices) : SlicedWork(slices), counts(static_cast<size_t>(slices)) {
    add_stream({reinterpret_cast<const char*>(counts.data()), 0});
  }

  std::vector<std::atomic<int>> counts;
  std::vector<int64_t> order;
  std::atomic<int> releases{0};

 private:
  void do_slice(int64_t slice) override {
    EXPECT_EQ(releases.load(), 0);
    counts[static_cast<size_t>(slice)].fetch_add(1);
    const std::lock_guard<std::mutex> lock(mutex_);
    order.push_back(slice);
  }
  void release() override { releases.fetch_add(1); }

  std::mutex mutex_;
};

void expect_done_once(Counting& work) {
  for (const auto& count : work.counts) {
    ASSERT_EQ(count.load(), 1);
  }
  EXPECT_EQ(work.releases.load(), 1);
}

// Steps of a loop that has time for as many slices.
constexpr int64_t steps_for(int64_t slices) {
  return (slices * SlicedWork::kParts + 2) / 3;
}

// Without a pool, whose threads do slices where they wait.
struct Alone {
  Alone() { set_num_threads(1); }
  ~Alone() { set_num_threads(0); }
};

TEST(SlicedWork, IsDoneWhereNobodyElseDoesIt) {
  for (const int64_t slices : {1, 15, 16, 17, 100}) {
    const auto work = std::make_shared<Counting>(slices);
    do_later(work, 0);
    work->finish();
    expect_done_once(*work);
    work->finish();
    expect_done_once(*work);
    const SlicesBeside nothing_is_left(steps_for(slices));
  }
}

TEST(SlicedWork, IsDoneBesideALoopAsItsLinesAreAskedFor) {
  const Alone alone;
  const auto work = std::make_shared<Counting>(5);
  do_later(work, 0);
  {
    SlicesBeside slices(steps_for(3));
    slices.run_ready();
    EXPECT_TRUE(work->order.empty());
    for (int64_t i = 0; i < steps_for(1); ++i) {
      slices.step();
    }
    slices.run_ready();
    EXPECT_EQ(work->order, std::vector<int64_t>{0});
  }
  EXPECT_EQ(work->order, (std::vector<int64_t>{0, 1, 2}));
  { const SlicesBeside slices(steps_for(100)); }
  expect_done_once(*work);
}

TEST(SlicedWork, TakesTheLowestRankFirstAndThenTheNext) {
  const Alone alone;
  const auto last = std::make_shared<Counting>(2);
  const auto first = std::make_shared<Counting>(2);
  do_later(last, 7);
  do_later(first, 3);
  SlicesBeside slices(steps_for(4));
  const auto step = [&](int64_t count) {
    for (int64_t i = 0; i < steps_for(count); ++i) {
      slices.step();
      slices.run_ready();
    }
  };
  step(2);
  expect_done_once(*first);
  EXPECT_TRUE(last->order.empty());
  step(2);
  expect_done_once(*last);
}

TEST(SlicedWork, DoesSlicesThatAreNeededEarlyOutOfTurn) {
  const Alone alone;
  const auto work = std::make_shared<Counting>(6);
  do_later(work, 0);
  work->finish(4);
  EXPECT_EQ(work->order, std::vector<int64_t>{4});
  { const SlicesBeside slices(steps_for(6)); }
  EXPECT_EQ(work->order, (std::vector<int64_t>{4, 0, 1, 2, 3, 5}));
  expect_done_once(*work);
}

TEST(SlicedWork, LoopsThatDoNotTakePartLeaveItAlone) {
  const Alone alone;
  const auto work = std::make_shared<Counting>(3);
  do_later(work, 0);
  {
    SlicesBeside none;
    const SlicesBeside too_short(steps_for(1) - 1);
    none.step();
    none.run_ready();
  }
  EXPECT_TRUE(work->order.empty());
  work->finish();
}

TEST(SlicedWork, IsDoneByThreadsThatWaitForOthers) {
  set_num_threads(2);
  const auto work = std::make_shared<Counting>(100);
  do_later(work, 0);
  const auto all_done = [&] { return work->releases.load() == 1; };
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  // One range waits for the slices, which the other thread does when it has no range left.
  parallel_for(2, 1, [&](int64_t begin, int64_t) {
    while (begin == 0 && !all_done() && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
  });
  set_num_threads(0);
  expect_done_once(*work);
}

TEST(SlicedWork, ManyThreadsDoEachSliceOnce) {
  const auto work = std::make_shared<Counting>(1000);
  do_later(work, 0);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (int64_t i = thread; i < 1000; i += 97) {
        work->finish(i);
      }
      const SlicesBeside slices(steps_for(120));
    });
  }
  work->finish();
  expect_done_once(*work);
  for (std::thread& thread : threads) {
    thread.join();
  }
  expect_done_once(*work);
}

}  // namespace
}  // namespace mamba
