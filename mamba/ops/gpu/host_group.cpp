#include "mamba/ops/gpu/host_group.h"

#include <algorithm>
#include <boost/context/preallocated.hpp>
#include <numeric>
#include <utility>

#include "mamba/base/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace mamba::ops::gpu::host {

constinit thread_local Group* group = nullptr;

namespace {

// A fiber's stack outlives it.
struct OwnStack {
  void deallocate(boost::context::stack_context& /*stack*/) {}
};

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

}  // namespace

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

bool all_wait_for(Waiting what, int first, int last) {
  return std::all_of(group->fibers.begin() + first, group->fibers.begin() + last,
                     [&](const Fiber& fiber) { return fiber.waiting == what; });
}

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

void EndGroup::operator()(Group* of) const {
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

char* shared_of(Group& of) {
  const auto start = reinterpret_cast<uintptr_t>(of.shared.data());
  return of.shared.data() + (16 - start % 16) % 16;
}

}  // namespace mamba::ops::gpu::host
