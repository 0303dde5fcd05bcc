// The pool. A parallel_for is one job at a time, of one phase or several. The caller publishes it in `ticket_` and
// works on it itself; workers that are awake join by raising the ticket's count. When no range is left the caller
// closes the ticket, so that a worker which wakes late cannot join, and waits for those who did. Between phases a
// thread waits for those that still have a range, never for one that has none. Workers spin for some microseconds
// between jobs (a decode step issues one every 50 us) and then sleep: nothing spins while the process waits for its
// user.
//
// What is left of a phase is counted in parts, one for each thread where there are several phases. Whoever ends a phase
// sets the counts for the next one, whose number each of them carries: a thread that comes late to a phase finds
// another's number and has nothing to take.

#include "mamba/base/threads.h"

#include <algorithm>
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

namespace mamba {
namespace {

constexpr int kSpinsBeforeSleep = 4000;  // about 50-100 us
constexpr int kSpinsBeforeYield = 2000;
constexpr int kSpinsBeforeIdleWork = 32;  // about a microsecond: most waits are shorter

std::atomic<bool (*)()> idle_work{nullptr};

// Whether some has been done.
bool do_idle_work() {
  bool (*const work)() = idle_work.load(std::memory_order_acquire);
  return work != nullptr && work();
}

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
    open(0);
    const uint64_t epoch = (ticket_.load(std::memory_order_relaxed) >> kEpochShift) + 1;
    ticket_.store((epoch << kEpochShift), std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      const std::lock_guard<std::mutex> lock(sleep_mutex_);
      sleep_.notify_all();
    }
    inside_parallel_for = true;
    work(0);
    inside_parallel_for = false;
    ticket_.fetch_or(kClosed, std::memory_order_acq_rel);
    wait_until([&] { return (ticket_.load(std::memory_order_acquire) & kJoinedMask) == 0; });
  }

 private:
  // ticket_: epoch | closed | number of workers that are inside the job.
  static constexpr int kEpochShift = 17;
  static constexpr uint64_t kClosed = uint64_t{1} << 16;
  static constexpr uint64_t kJoinedMask = kClosed - 1;

  // How far one part of the phase that is open has come: the phase's number, then the next grain. In a cache line of
  // its own, so that a thread which looks for a range does not disturb others.
  struct alignas(64) Part {
    std::atomic<uint64_t> next{0};
  };
  static constexpr int kPhaseShift = 40;

  template <typename Condition>
  static void wait_until(const Condition& holds) {
    for (int spins = 0; !holds(); ++spins) {
      if (spins % kSpinsBeforeIdleWork == kSpinsBeforeIdleWork - 1 && do_idle_work()) {
        spins = kSpinsBeforeIdleWork - 2;
      } else if (spins < kSpinsBeforeYield) {
        pause_briefly();
      } else {
        std::this_thread::yield();
      }
    }
  }

  // Parts are cut between grains.
  int64_t parts() const { return guided_ ? threads() : 1; }
  static int64_t grains(const Phase& phase) { return (phase.count + phase.grain - 1) / phase.grain; }
  int64_t first_grain(const Phase& phase, int64_t part) const { return grains(phase) * part / parts(); }

  // Before anybody can see that phase `index` has begun.
  void open(size_t index) {
    const Phase& phase = phases_[index];
    done_.store(0, std::memory_order_relaxed);
    for (int64_t part = 0; part < parts(); ++part) {
      const auto next = static_cast<uint64_t>(first_grain(phase, part));
      parts_[static_cast<size_t>(part)].next.store(uint64_t{index} << kPhaseShift | next, std::memory_order_relaxed);
    }
    phase_.store(index, std::memory_order_release);
  }

  // The next range of a part; empty when none is left.
  std::pair<int64_t, int64_t> take_range(size_t index, int64_t part) {
    const Phase& phase = phases_[index];
    std::atomic<uint64_t>& next = parts_[static_cast<size_t>(part)].next;
    const int64_t end = first_grain(phase, part + 1);
    uint64_t seen = next.load(std::memory_order_relaxed);
    for (;;) {
      const auto begin = static_cast<int64_t>(seen & ((uint64_t{1} << kPhaseShift) - 1));
      if (seen >> kPhaseShift != index || begin >= end) {
        return {0, 0};
      }
      const int64_t taken = guided_ ? std::max<int64_t>(1, (end - begin) / 2) : 1;
      if (next.compare_exchange_weak(seen, seen + static_cast<uint64_t>(taken), std::memory_order_relaxed)) {
        return {begin * phase.grain, std::min(phase.count, (begin + taken) * phase.grain)};
      }
    }
  }

  // All that is left of a phase, the thread's own part first.
  void take_ranges(size_t index, int64_t thread) {
    const Phase& phase = phases_[index];
    for (int64_t i = 0; i < parts(); ++i) {
      const int64_t part = (thread + i) % parts();
      for (;;) {
        const auto [begin, end] = take_range(index, part);
        if (begin >= end) {
          break;
        }
        phase.body(begin, end);
        const int64_t count = end - begin;
        if (done_.fetch_add(count, std::memory_order_acq_rel) + count == phase.count) {
          if (phase.then) {
            (*phase.then)();
          }
          if (index + 1 < phases_.size()) {
            open(index + 1);
          } else {
            phase_.store(index + 1, std::memory_order_release);
          }
          return;
        }
      }
    }
  }

  void work(int64_t thread) {
    const auto current = [this] { return phase_.load(std::memory_order_acquire); };
    for (size_t i = current(); i < phases_.size(); ++i) {
      take_ranges(i, thread);
      if (i + 1 < phases_.size()) {
        wait_until([&] { return current() > i; });
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

  void worker(int64_t thread) {
    inside_parallel_for = true;
    uint64_t seen_epoch = 0;
    while (!stopping_.load(std::memory_order_acquire)) {
      if (try_join(seen_epoch)) {
        work(thread);
        ticket_.fetch_sub(1, std::memory_order_acq_rel);
        continue;
      }
      bool found = false;
      for (int spins = 0; spins < kSpinsBeforeSleep && !found; ++spins) {
        pause_briefly();
        found = (ticket_.load(std::memory_order_relaxed) >> kEpochShift) != seen_epoch ||
                stopping_.load(std::memory_order_relaxed);
        if (!found && spins % kSpinsBeforeIdleWork == kSpinsBeforeIdleWork - 1 && do_idle_work()) {
          spins = kSpinsBeforeIdleWork - 2;
        }
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
    parts_ = std::vector<Part>(static_cast<size_t>(threads()));
    for (int i = 1; i < threads(); ++i) {
      workers_.emplace_back([this, i] { worker(i); });
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
  std::vector<Part> parts_;
  alignas(64) std::atomic<size_t> phase_{0};  // the one that is open
  alignas(64) std::atomic<int64_t> done_{0};  // of its items
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
  if (!phases.empty()) {
    pool().run(phases, true);
  }
}

void set_idle_work(bool (*work)()) {
  idle_work.store(work, std::memory_order_release);
}

}  // namespace mamba
