#include "mamba/ops/gpu/host.h"

#include <algorithm>
#include <boost/context/fiber.hpp>
#include <boost/context/preallocated.hpp>
#include <exception>
#include <memory>
#include <numeric>
#include <utility>

#include "mamba/base/error.h"
#include "mamba/ops/gpu/host_stack.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace mamba::ops::gpu::host {

namespace {

constexpr int kMostPosted = 32;             // numbers that a lane hands to the others at once
constexpr int64_t kSharedBytes = 32 << 10;  // what Metal gives a group

enum class Waiting { kNothing, kBarrier, kPartBarrier, kGridBarrier, kShuffle, kCondition, kDone };

// Boost.Context's, which switch without asking the system (ucontext's save the signal mask).
struct Fiber {
  boost::context::fiber context;
  Stack stack;
  Waiting waiting = Waiting::kNothing;
  bool begun = false;
  int64_t shared_used = 0;
  int shuffles = 0;
  int part = 0;                                      // threads of the barrier that it waits at
  const std::function<bool()>* condition = nullptr;  // that it waits for
  void* sanitizer = nullptr;

  [[nodiscard]] boost::context::stack_context stack_context() const {
    boost::context::stack_context out;
    out.size = Stack::kBytes;
    out.sp = stack.end();
    return out;
  }
};

// A fiber's stack outlives it.
struct OwnStack {
  void deallocate(boost::context::stack_context& /*stack*/) {}
};

// One group at work. Values for other lanes lie in two rows by turns: a lane that goes on posts to the other one.
struct Group {
  const Launch* launch = nullptr;
  Body body = nullptr;
  int index[3] = {0, 0, 0};
  std::vector<Fiber> fibers;
  std::vector<float> posted[2];
  std::vector<char> shared;
  Group* partner = nullptr;
  int current = 0;
  boost::context::fiber scheduler;
  std::exception_ptr failure;
  bool abandoned = false;
  void* scheduler_sanitizer = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
};

thread_local Group* group = nullptr;

void before_switch([[maybe_unused]] void** save, [[maybe_unused]] const void* stack, [[maybe_unused]] size_t bytes,
                   [[maybe_unused]] void* fiber) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(save, stack, bytes);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(fiber, 0);
#endif
}

void after_switch([[maybe_unused]] void* saved, [[maybe_unused]] const void** stack, [[maybe_unused]] size_t* bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(saved, stack, bytes);
#endif
}

// Thrown in a thread whose launch has ended or failed, to free what it holds.
struct Abandoned {};

void wait_for(Waiting what) {
  Fiber& self = group->fibers[static_cast<size_t>(group->current)];
  self.waiting = what;
  void* saved = nullptr;
  before_switch(&saved, group->scheduler_stack, group->scheduler_stack_bytes, group->scheduler_sanitizer);
  group->scheduler = std::move(group->scheduler).resume();
  after_switch(saved, nullptr, nullptr);
  if (group->abandoned) {
    throw Abandoned();
  }
}

void run_body() {
  try {
    group->body(*group->launch);
  } catch (const Abandoned&) {
    throw;
  } catch (...) {
    group->failure = std::current_exception();
  }
}

// Runs a thread of one group after another, until the launch has come to its end.
boost::context::fiber fiber_main(boost::context::fiber&& scheduler) {
  after_switch(nullptr, &group->scheduler_stack, &group->scheduler_stack_bytes);
  group->scheduler = std::move(scheduler);
  try {
    for (;;) {
      run_body();
      wait_for(Waiting::kDone);
    }
  } catch (const Abandoned&) {
    // The launch has its results, or its error.
  }
  before_switch(nullptr, group->scheduler_stack, group->scheduler_stack_bytes, group->scheduler_sanitizer);
  return std::move(group->scheduler);
}

void resume(int thread) {
  group->current = thread;
  Fiber& fiber = group->fibers[static_cast<size_t>(thread)];
  fiber.waiting = Waiting::kNothing;
  if (!std::exchange(fiber.begun, true)) {
    const boost::context::stack_context stack = fiber.stack_context();
    fiber.context = boost::context::fiber(std::allocator_arg, boost::context::preallocated(stack.sp, stack.size, stack),
                                          OwnStack(), fiber_main);
#if defined(__SANITIZE_THREAD__)
    fiber.sanitizer = __tsan_create_fiber(0);
#endif
  }
  void* saved = nullptr;
  before_switch(&saved, fiber.stack.begin(), Stack::kBytes, fiber.sanitizer);
  fiber.context = std::move(fiber.context).resume();
  after_switch(saved, nullptr, nullptr);
}

bool all_wait_for(Waiting what, int first, int last) {
  return std::all_of(group->fibers.begin() + first, group->fibers.begin() + last,
                     [&](const Fiber& fiber) { return fiber.waiting == what; });
}

void release(int first, int last) {
  for (int i = first; i < last; ++i) {
    group->fibers[static_cast<size_t>(i)].waiting = Waiting::kNothing;
  }
}

void start_fibers() {
  const int threads = group->launch->threads;
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = group->fibers[static_cast<size_t>(i)];
    fiber.waiting = Waiting::kNothing;
    fiber.shared_used = 0;
    fiber.shuffles = 0;
  }
}

// All threads that do not wait for others of the group, and there are some.
bool stand_at_grid_barrier() {
  bool any = false;
  for (const Fiber& fiber : group->fibers) {
    if (fiber.waiting == Waiting::kGridBarrier) {
      any = true;
    } else if (fiber.waiting != Waiting::kDone && (fiber.waiting != Waiting::kCondition || (*fiber.condition)())) {
      return false;
    }
  }
  return any;
}

// Lets those go on that wait for a condition which holds now.
bool release_by_condition() {
  bool any = false;
  for (Fiber& fiber : group->fibers) {
    if (fiber.waiting == Waiting::kCondition && (*fiber.condition)()) {
      fiber.waiting = Waiting::kNothing;
      any = true;
    }
  }
  return any;
}

// Runs the fibers of one group to their ends, or until all of them wait for the other groups; `turn` picks the order.
// Whether any went on.
bool advance(int64_t turn) {
  const int threads = group->launch->threads;
  bool ever = false;
  // What has no factor in common with their number visits every thread.
  int step = static_cast<int>(turn * 2 + 1) % threads;
  while (std::gcd(step, threads) != 1) {
    ++step;
  }
  while (!all_wait_for(Waiting::kDone, 0, threads) && !stand_at_grid_barrier()) {
    bool moved = false;
    for (int i = 0; i < threads && !group->failure; ++i) {
      const int thread = turn % 2 == 0 ? (i * step) % threads : threads - 1 - (i * step) % threads;
      if (group->fibers[static_cast<size_t>(thread)].waiting == Waiting::kNothing) {
        resume(thread);
        moved = true;
      }
    }
    if (group->failure) {
      break;
    }
    for (int first = 0; first < threads; first += kSimdWidth) {
      if (all_wait_for(Waiting::kShuffle, first, first + kSimdWidth)) {
        release(first, first + kSimdWidth);
        moved = true;
      }
    }
    if (all_wait_for(Waiting::kBarrier, 0, threads)) {
      release(0, threads);
      moved = true;
    }
    const int part = group->fibers[0].part;
    if (group->fibers[0].waiting == Waiting::kPartBarrier && all_wait_for(Waiting::kPartBarrier, 0, part)) {
      release(0, part);
      moved = true;
    }
    moved = release_by_condition() || moved;
    ever = ever || moved;
    if (!moved && group->launch->in_pairs) {
      break;
    }
    check(moved || stand_at_grid_barrier() || all_wait_for(Waiting::kDone, 0, threads),
          "a GPU kernel's barrier or shuffle is not reached by all threads, or one waits for what nobody does");
  }
  return ever;
}

// Makes `of` the group at work for as long as this lives.
class AtWork {
 public:
  explicit AtWork(Group& of) { group = &of; }
  ~AtWork() { group = nullptr; }
  AtWork(const AtWork&) = delete;
  AtWork& operator=(const AtWork&) = delete;
};

// Lets threads come to their ends, wherever they wait.
struct EndGroup {
  void operator()(Group* of) const {
    {
      const AtWork at_work(*of);
      of->abandoned = true;
      for (size_t i = 0; i < of->fibers.size(); ++i) {
        if (of->fibers[i].begun) {
          resume(static_cast<int>(i));
#if defined(__SANITIZE_THREAD__)
          __tsan_destroy_fiber(of->fibers[i].sanitizer);
#endif
        }
      }
    }
    delete of;
  }
};
using OwnedGroup = std::unique_ptr<Group, EndGroup>;

OwnedGroup make_group(Body body, const Launch& launch) {
  OwnedGroup made(new Group);
  made->launch = &launch;
  made->body = body;
  made->fibers.resize(static_cast<size_t>(launch.threads));
  for (std::vector<float>& row : made->posted) {
    row.resize(static_cast<size_t>(launch.threads * kMostPosted));
  }
  made->shared.resize(static_cast<size_t>(kSharedBytes + launch.shared_more + 16));
#if defined(__SANITIZE_THREAD__)
  made->scheduler_sanitizer = __tsan_get_current_fiber();
#endif
  return made;
}

void begin_group() {
  std::fill(group->shared.begin(), group->shared.end(), static_cast<char>(0xff));  // NaN as float
  start_fibers();
}

void pass_grid_barrier() {
  for (Fiber& fiber : group->fibers) {
    fiber.waiting = fiber.waiting == Waiting::kGridBarrier ? Waiting::kNothing : fiber.waiting;
  }
}

// True when the group has come to its end, false when it waits for the others.
bool run_group(Group& of, int64_t turn, bool begins) {
  const AtWork at_work(of);
  begins ? begin_group() : pass_grid_barrier();
  advance(turn);
  if (of.failure) {
    std::rethrow_exception(of.failure);
  }
  if (stand_at_grid_barrier()) {
    return false;
  }
  return true;
}

char* shared_of(Group& of) {
  const auto start = reinterpret_cast<uintptr_t>(of.shared.data());
  return of.shared.data() + (16 - start % 16) % 16;
}

// Groups that wait for one another in between: each goes on as far as it can, in turns.
void run_in_pairs(Body body, const Launch& launch) {
  static thread_local int64_t turn = 0;
  const auto count = static_cast<size_t>(launch.groups[0]);
  check(count % 2 == 0 && launch.groups[1] == 1 && launch.groups[2] == 1, "{} GPU groups in pairs", count);
  std::vector<OwnedGroup> all;
  for (size_t i = 0; i < count; ++i) {
    all.push_back(make_group(body, launch));
    all[i]->index[0] = static_cast<int>(i);
  }
  for (size_t i = 0; i < count; ++i) {
    const AtWork at_work(*all[i]);
    group->partner = all[i ^ 1].get();
    begin_group();
  }
  for (size_t ended = 0; ended < count;) {
    bool moved = false;
    size_t at_barrier = 0;
    ended = 0;
    for (const OwnedGroup& one : all) {
      const AtWork at_work(*one);
      moved = advance(turn++) || moved;
      if (group->failure) {
        std::rethrow_exception(group->failure);
      }
      at_barrier += stand_at_grid_barrier() ? 1 : 0;
      ended += all_wait_for(Waiting::kDone, 0, launch.threads) ? 1 : 0;
    }
    for (const OwnedGroup& one : all) {
      if (at_barrier == count) {
        const AtWork at_work(*one);
        pass_grid_barrier();
        moved = true;
      }
    }
    check(moved || ended == count, "the groups of a GPU kernel wait for what none of them does");
  }
}

}  // namespace

void run(Body body, const Launch& launch) {
  const int threads = launch.threads;
  check(threads >= kSimdWidth && threads % kSimdWidth == 0, "a GPU group of {} threads is no multiple of {}", threads,
        kSimdWidth);
  if (launch.in_pairs) {
    run_in_pairs(body, launch);
    return;
  }
  static thread_local int64_t turn = 0;
  // Groups that wait for all others stay as they are; one that has ended makes room for the next.
  std::vector<OwnedGroup> waiting;
  OwnedGroup next;
  size_t ended = 0;
  for (int z = 0; z < launch.groups[2]; ++z) {
    for (int y = 0; y < launch.groups[1]; ++y) {
      for (int x = 0; x < launch.groups[0]; ++x) {
        if (next == nullptr) {
          next = make_group(body, launch);
        }
        next->index[0] = x;
        next->index[1] = y;
        next->index[2] = z;
        if (run_group(*next, turn++, true)) {
          ++ended;
        } else {
          waiting.push_back(std::move(next));
        }
      }
    }
  }
  while (!waiting.empty()) {
    check(ended == 0, "a GPU kernel's grid barrier is not reached by all groups");
    for (const OwnedGroup& one : waiting) {
      ended += run_group(*one, turn++, false) ? 1 : 0;
    }
    if (ended == waiting.size()) {
      waiting.clear();
    }
  }
}

int thread_index() {
  return group->current;
}

int group_index(int axis) {
  return group->index[axis];
}

int groups(int axis) {
  return group->launch->groups[axis];
}

void barrier() {
  wait_for(Waiting::kBarrier);
}

void barrier_of(int threads) {
  group->fibers[static_cast<size_t>(group->current)].part = threads;
  wait_for(Waiting::kPartBarrier);
}

void wait_until(const std::function<bool()>& condition) {
  if (!condition()) {
    group->fibers[static_cast<size_t>(group->current)].condition = &condition;
    wait_for(Waiting::kCondition);
  }
}

void grid_barrier() {
  wait_for(Waiting::kGridBarrier);
}

const float* share(const float* values, int count) {
  check(count > 0 && count <= kMostPosted, "a GPU kernel's lane shares {} numbers", count);
  const int self = group->current;
  std::vector<float>& row = group->posted[group->fibers[static_cast<size_t>(self)].shuffles++ % 2];
  float* const all = row.data() + self / kSimdWidth * kSimdWidth * kMostPosted;
  std::copy_n(values, count, all + self % kSimdWidth * count);
  wait_for(Waiting::kShuffle);
  return all;
}

float shuffle(float value, int lane) {
  check(lane >= 0 && lane < kSimdWidth, "a GPU kernel shuffles from lane {}", lane);
  return share(&value, 1)[lane];
}

float shuffle_xor(float value, int mask) {
  return shuffle(value, (group->current % kSimdWidth) ^ mask);
}

void* shared_bytes(int64_t bytes) {
  Fiber& self = group->fibers[static_cast<size_t>(group->current)];
  void* out = shared_of(*group) + self.shared_used;
  self.shared_used += (bytes + 15) / 16 * 16;
  const int64_t most = kSharedBytes + group->launch->shared_more;
  check(self.shared_used <= most, "a GPU kernel uses {} bytes of shared memory; it has {}", self.shared_used, most);
  return out;
}

void* at_partner(void* at) {
  check(group->partner != nullptr, "this GPU kernel's groups have no partners");
  return shared_of(*group->partner) + (static_cast<char*>(at) - shared_of(*group));
}

}  // namespace mamba::ops::gpu::host
