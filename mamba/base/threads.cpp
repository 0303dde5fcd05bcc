// The pool. A parallel_for is one job at a time, of one phase or several. The caller publishes it in `ticket_` and
// works on it itself; workers that are awake join by raising the ticket's count. When no range is left the caller
// closes the ticket, so that a worker which wakes late cannot join, and waits for those who did. Between phases a
// thread waits for those that still have a range, never for one that has none. Workers spin for some microseconds
// between jobs (a decode step issues one every 50 us) and then sleep: nothing spins while the process waits for its
// user.

#include "mamba/base/threads.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "mamba/base/error.h"

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

  void run(std::span<const Phase> phases, bool guided) {
    std::unique_lock<std::mutex> one_caller(caller_, std::defer_lock);
    const bool small = phases.size() == 1 && phases[0].count <= phases[0].grain;
    if (threads() == 1 || small || inside_parallel_for || !one_caller.try_lock()) {
      for (const Phase& phase : phases) {
        for (int64_t begin = 0; begin < phase.count; begin += phase.grain) {
          phase.body(begin, std::min(phase.count, begin + phase.grain));
        }
        if (phase.then) {
          (*phase.then)();
        }
      }
      return;
    }
    if (workers_.empty()) {
      start();
    }
    phases_ = phases;
    guided_ = guided;
    for (size_t i = 0; i < phases.size(); ++i) {
      progress_[i].next.store(0, std::memory_order_relaxed);
      progress_[i].done.store(0, std::memory_order_relaxed);
      progress_[i].is_over.store(false, std::memory_order_relaxed);
    }
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
    wait_until([&] { return (ticket_.load(std::memory_order_acquire) & kJoinedMask) == 0; });
  }

 private:
  // ticket_: epoch | closed | number of workers that are inside the job.
  static constexpr int kEpochShift = 17;
  static constexpr uint64_t kClosed = uint64_t{1} << 16;
  static constexpr uint64_t kJoinedMask = kClosed - 1;

  // How far one phase is, each in cache lines of its own: a thread that looks for a range does not disturb those that
  // wait.
  struct Progress {
    alignas(64) std::atomic<int64_t> next{0};
    alignas(64) std::atomic<int64_t> done{0};
    alignas(64) std::atomic<bool> is_over{false};
  };

  template <typename Condition>
  static void wait_until(const Condition& holds) {
    for (int spins = 0; !holds(); ++spins) {
      if (spins < kSpinsBeforeYield) {
        pause_briefly();
      } else {
        std::this_thread::yield();
      }
    }
  }

  // The next range of a phase; empty when none is left.
  std::pair<int64_t, int64_t> take_range(const Phase& phase, Progress& progress) const {
    if (!guided_) {
      const int64_t begin = progress.next.fetch_add(phase.grain, std::memory_order_relaxed);
      return {begin, std::min(phase.count, begin + phase.grain)};
    }
    int64_t begin = progress.next.load(std::memory_order_relaxed);
    int64_t end = begin;
    do {
      if (begin >= phase.count) {
        return {begin, begin};
      }
      const int64_t share = (phase.count - begin) / (2 * threads()) / phase.grain;
      end = std::min(phase.count, begin + std::max<int64_t>(1, share) * phase.grain);
    } while (!progress.next.compare_exchange_weak(begin, end, std::memory_order_relaxed));
    return {begin, end};
  }

  void work() {
    for (size_t i = 0; i < phases_.size(); ++i) {
      const Phase& phase = phases_[i];
      Progress& progress = progress_[i];
      for (;;) {
        const auto [begin, end] = take_range(phase, progress);
        if (begin >= end) {
          break;
        }
        phase.body(begin, end);
        const int64_t count = end - begin;
        if (progress.done.fetch_add(count, std::memory_order_acq_rel) + count == phase.count) {
          if (phase.then) {
            (*phase.then)();
          }
          progress.is_over.store(true, std::memory_order_release);
        }
      }
      if (i + 1 < phases_.size()) {
        wait_until([&] { return progress.is_over.load(std::memory_order_acquire); });
      }
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

  std::span<const Phase> phases_;
  bool guided_ = false;
  std::array<Progress, kMaxPhases> progress_;
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
    const Phase phase{.count = count, .grain = std::max<int64_t>(grain, 1), .body = body};
    pool().run({&phase, 1}, false);
  }
}

void parallel_phases(std::span<const Phase> phases) {
  check(phases.size() <= kMaxPhases, "[threads] {} phases are more than {}", phases.size(), kMaxPhases);
  pool().run(phases, true);
}

}  // namespace mamba
