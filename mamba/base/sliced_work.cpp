// What waits stands in one queue, short since each piece of work is large. Slices are taken from it in runs, as many as
// a thread has time for, so that its lock is taken seldom. A slice that somebody needs early is done out of turn;
// whoever takes it later finds it done.

#include "mamba/base/sliced_work.h"

#include <algorithm>
#include <mutex>
#include <thread>
#include <utility>

#include "mamba/base/threads.h"

namespace mamba {

SlicedWork::SlicedWork(int64_t slices) : state_(static_cast<size_t>(slices)) {}

void SlicedWork::run(int64_t slice) {
  std::atomic<uint8_t>& state = state_[static_cast<size_t>(slice)];
  uint8_t expected = kOpen;
  if (!state.compare_exchange_strong(expected, kBegun, std::memory_order_acq_rel)) {
    return;
  }
  do_slice(slice);
  state.store(kDone, std::memory_order_release);
  if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == slices()) {
    release();
    is_released_.store(true, std::memory_order_release);
  }
}

void SlicedWork::finish(int64_t slice) {
  run(slice);
  while (state_[static_cast<size_t>(slice)].load(std::memory_order_acquire) != kDone) {
    std::this_thread::yield();
  }
}

void SlicedWork::finish() {
  constexpr int64_t kGrain = 16;
  if (done_.load(std::memory_order_relaxed) < slices()) {
    parallel_for(slices(), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        run(i);
      }
    });
  }
  while (!is_released_.load(std::memory_order_acquire)) {
    std::this_thread::yield();
  }
}

// The queue.
class WaitingWork {
 public:
  // Never destroyed: a thread may still look into it when static destructors run.
  static WaitingWork& instance() {
    static WaitingWork* const queue = new WaitingWork;
    return *queue;
  }

  bool is_empty() const { return count_.load(std::memory_order_relaxed) == 0; }

  void add(std::shared_ptr<SlicedWork> work, int64_t rank) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto place = std::upper_bound(queue_.begin(), queue_.end(), rank,
                                        [](int64_t value, const Entry& entry) { return value < entry.rank; });
    queue_.insert(place, {rank, std::move(work)});
    count_.store(static_cast<int64_t>(queue_.size()), std::memory_order_relaxed);
  }

  struct Run {
    std::shared_ptr<SlicedWork> work;
    int64_t begin = 0, end = 0;
  };

  // At most so many slices of the first that has some.
  Run take(int64_t most) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Run run;
    while (!queue_.empty() && run.begin == run.end) {
      SlicedWork& work = *queue_.front().work;
      const bool is_done = work.done_.load(std::memory_order_relaxed) == work.slices();
      run = {queue_.front().work, work.next_, is_done ? work.next_ : std::min(work.slices(), work.next_ + most)};
      work.next_ = run.end;
      if (is_done || work.next_ == work.slices()) {
        queue_.erase(queue_.begin());
      }
    }
    count_.store(static_cast<int64_t>(queue_.size()), std::memory_order_relaxed);
    return run;
  }

 private:
  struct Entry {
    int64_t rank;
    std::shared_ptr<SlicedWork> work;
  };

  std::mutex mutex_;
  std::vector<Entry> queue_;  // by rank
  std::atomic<int64_t> count_{0};
};

namespace {

// One slice of what waits.
bool do_waiting_slice() {
  if (WaitingWork::instance().is_empty()) {
    return false;
  }
  const WaitingWork::Run run = WaitingWork::instance().take(1);
  for (int64_t slice = run.begin; slice < run.end; ++slice) {
    run.work->run(slice);
  }
  return run.begin < run.end;
}

}  // namespace

void do_later(std::shared_ptr<SlicedWork> work, int64_t rank) {
  set_idle_work(do_waiting_slice);
  WaitingWork::instance().add(std::move(work), rank);
}

SlicesBeside::SlicesBeside(int64_t steps) : left_(steps * kPartsOfStep) {
  take();
}

SlicesBeside::~SlicesBeside() {
  left_ = 0;
  run_until(end_);
}

void SlicesBeside::take() {
  const int64_t most = left_ / SlicedWork::kParts;
  if (most == 0 || WaitingWork::instance().is_empty()) {
    return;
  }
  const WaitingWork::Run run = WaitingWork::instance().take(most);
  if (run.begin < run.end) {
    work_ = run.work;
    streams_ = work_->streams_;
    num_streams_ = work_->num_streams_;
    part_ = done_ = run.begin * SlicedWork::kParts;
    end_ = run.end * SlicedWork::kParts;
    left_ -= end_ - done_;
  }
}

void SlicesBeside::run_until(int64_t part) {
  for (; done_ + SlicedWork::kParts <= part; done_ += SlicedWork::kParts) {
    work_->run(done_ / SlicedWork::kParts);
  }
  if (done_ == end_) {
    work_.reset();
    take();
  }
}

}  // namespace mamba
