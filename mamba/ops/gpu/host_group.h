// A group of threads at work on the host, each a fiber. Private to this folder: what host.cpp is made of.
#pragma once

#include <boost/context/fiber.hpp>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "mamba/ops/gpu/host.h"
#include "mamba/ops/gpu/host_stack.h"

namespace mamba::ops::gpu::host {

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

// The one at work on this operating system thread.
extern constinit thread_local Group* group;

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
  void operator()(Group* of) const;
};
using OwnedGroup = std::unique_ptr<Group, EndGroup>;

OwnedGroup make_group(Body body, const Launch& launch);

// Its shared memory, lying on 16 bytes.
char* shared_of(Group& of);

// Of the group at work.

// By one of its threads: the others go on until it need not wait any more.
void wait_for(Waiting what);
bool all_wait_for(Waiting what, int first, int last);
// All threads that do not wait for others of the group, and there are some.
bool stand_at_grid_barrier();
void begin_group();
void pass_grid_barrier();
// Runs the fibers of one group to their ends, or until all of them wait for the other groups; `turn` picks the order.
// Whether any went on.
bool advance(int64_t turn);

}  // namespace mamba::ops::gpu::host
