// The pool. A parallel_for is one job at a time. The caller publishes it in `ticket_` and works on it itself; workers
// that are awake join by raising the ticket's count. When no range is left the caller closes the ticket, so that a
// worker which wakes late cannot join, and waits for those who did. Workers spin for some microseconds between jobs
// (a decode step issues one every 50 us) and then sleep: nothing spins while the process waits for its user.

#include "mamba/base/threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mamba {
namespace {

constexpr int kSpinsBeforeSleep = 4000;  // about 50-100 us
constexpr int kSpinsBeforeYield = 2000;

thread_local bool inside_parallel_for = false;

void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int available_processors() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    return std::max(1, CPU_COUNT(&set));
  }
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

class Pool {
 public:
  ~Pool() { stop(); }

  int threads() const { return threads_.load(std::memory_order_relaxed); }

  void resize(int count) {
    const std::lock_guard<std::mutex> one_caller(caller_);
    stop();
    threads_ = count < 1 ? available_processors() : count;
  }

  void run(int64_t count, int64_t grain, const RangeFn& body) {
    std::unique_lock<std::mutex> one_caller(caller_, std::defer_lock);
    if (threads() == 1 || count <= grain || inside_parallel_for || !one_caller.try_lock()) {
      for (int64_t begin = 0; begin < count; begin += grain) {
        body(begin, std::min(count, begin + grain));
      }
      return;
    }
    if (workers_.empty()) {
      start();
    }
    body_ = &body;
    count_ = count;
    grain_ = grain;
    next_.store(0, std::memory_order_relaxed);
    const uint64_t epoch = (ticket_.load(std::memory_order_relaxed) >> kEpochShift) + 1;
    ticket_.store((epoch << kEpochShift), std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      const std::lock_guard<std::mutex> lock(sleep_mutex_);
      sleep_.notify_all();
    }
    inside_parallel_for = true;
    work();
    inside_parallel_for = false;
    ticket_.fetch_or(kClosed, std::memory_order_acq_rel);
    for (int spins = 0; (ticket_.load(std::memory_order_acquire) & kJoinedMask) != 0; ++spins) {
      if (spins < kSpinsBeforeYield) {
        pause_briefly();
      } else {
        std::this_thread::yield();
      }
    }
  }

 private:
  // ticket_: epoch | closed | number of workers that are inside the job.
  static constexpr int kEpochShift = 17;
  static constexpr uint64_t kClosed = uint64_t{1} << 16;
  static constexpr uint64_t kJoinedMask = kClosed - 1;

  void work() {
    const RangeFn& body = *body_;
    const int64_t count = count_;
    const int64_t grain = grain_;
    for (;;) {
      const int64_t begin = next_.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) {
        return;
      }
      body(begin, std::min(count, begin + grain));
    }
  }

  bool try_join(uint64_t& seen_epoch) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while ((ticket >> kEpochShift) != seen_epoch) {
      if ((ticket & kClosed) != 0) {
        seen_epoch = ticket >> kEpochShift;
        return false;
      }
      if (ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) {
        seen_epoch = ticket >> kEpochShift;
        return true;
      }
    }
    return false;
  }

  void worker() {
    inside_parallel_for = true;
    uint64_t seen_epoch = 0;
    while (!stopping_.load(std::memory_order_acquire)) {
      if (try_join(seen_epoch)) {
        work();
        ticket_.fetch_sub(1, std::memory_order_acq_rel);
        continue;
      }
      bool found = false;
      for (int spins = 0; spins < kSpinsBeforeSleep && !found; ++spins) {
        pause_briefly();
        found = (ticket_.load(std::memory_order_relaxed) >> kEpochShift) != seen_epoch ||
                stopping_.load(std::memory_order_relaxed);
      }
      if (!found) {
        std::unique_lock<std::mutex> lock(sleep_mutex_);
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        sleep_.wait(lock, [&] {
          return (ticket_.load(std::memory_order_seq_cst) >> kEpochShift) != seen_epoch || stopping_.load();
        });
        sleepers_.fetch_sub(1, std::memory_order_seq_cst);
      }
    }
  }

  void start() {
    stopping_ = false;
    ticket_.store(kClosed, std::memory_order_relaxed);
    for (int i = 1; i < threads(); ++i) {
      workers_.emplace_back([this] { worker(); });
    }
  }

  void stop() {
    {
      const std::lock_guard<std::mutex> lock(sleep_mutex_);
      stopping_ = true;
      sleep_.notify_all();
    }
    for (std::thread& thread : workers_) {
      thread.join();
    }
    workers_.clear();
  }

  std::mutex caller_;
  std::atomic<int> threads_{available_processors()};
  std::vector<std::thread> workers_;
  std::atomic<bool> stopping_{false};

  const RangeFn* body_ = nullptr;
  int64_t count_ = 0;
  int64_t grain_ = 1;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint64_t> ticket_{kClosed};

  std::mutex sleep_mutex_;
  std::condition_variable sleep_;
  std::atomic<int> sleepers_{0};
};

// Never destroyed: MLX's stream threads may still be inside a kernel when static destructors run.
Pool& pool() {
  static Pool* const instance = new Pool;
  return *instance;
}

}  // namespace

int num_threads() {
  return pool().threads();
}

void set_num_threads(int count) {
  pool().resize(count);
}

void parallel_for(int64_t count, int64_t grain, RangeFn body) {
  if (count > 0) {
    pool().run(count, std::max<int64_t>(grain, 1), body);
  }
}

}  // namespace mamba
