// One pool of threads for every kernel of the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>

namespace mamba {

// Threads that parallel_for uses, the caller among them. Starts as the number of processors this process may run on.
int num_threads();

// `count` < 1 goes back to the start value. Not to be called while a parallel_for runs.
void set_num_threads(int count);

// A callable by reference: no allocation, valid for the length of the call it is passed to.
template <typename Signature>
class FunctionRef;

template <typename... Arguments>
class FunctionRef<void(Arguments...)> {
 public:
  template <typename F, typename = std::enable_if_t<!std::is_same_v<std::remove_cvref_t<F>, FunctionRef>>>
  FunctionRef(F&& f)  // NOLINT(google-explicit-constructor): lambdas are passed as they are
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* object, Arguments... arguments) {
          (*static_cast<std::remove_reference_t<F>*>(object))(arguments...);
        }) {}

  // Of a member: (object.*kMember)(arguments...).
  template <auto kMember, typename Object>
  static FunctionRef to(Object& object) {
    return FunctionRef(
        &object, [](void* self, Arguments... arguments) { (static_cast<Object*>(self)->*kMember)(arguments...); });
  }

  void operator()(Arguments... arguments) const { call_(object_, arguments...); }

 private:
  FunctionRef(void* object, void (*call)(void*, Arguments...)) : object_(object), call_(call) {}

  void* object_;
  void (*call_)(void*, Arguments...);
};

using RangeFn = FunctionRef<void(int64_t begin, int64_t end)>;

// Calls body(begin, end) for disjoint ranges that cover [0, count), each of at most `grain` items, on the pool and on
// the calling thread. Ranges are handed out one by one, so a thread that loses its core does not hold up the others
// by more than one range. Which thread takes which range is not defined: a body must give the same result for any
// split. Calls from inside a body, and calls while another thread's parallel_for runs, run on the calling thread
// alone. `body` must not throw.
void parallel_for(int64_t count, int64_t grain, RangeFn body);

// A loop of several that follow one another.
struct Phase {
  int64_t count;  // at least 1
  int64_t grain;
  RangeFn body;
  // Called once when all of the body's ranges are done, before the next phase begins.
  std::optional<FunctionRef<void()>> then = {};
};

// Loops that each need the one before, without the cost of starting and joining them: threads go from one to the next
// as soon as its last range is done. Of each phase a thread takes its own part first, in order, then what others have
// left of theirs. Ranges are whole multiples of `grain` but for the last, and larger at first, since small ones only
// matter at the end. Otherwise as parallel_for.
void parallel_phases(std::span<const Phase> phases);

// What threads of the pool do for a few microseconds at a time where they would wait for one another: false when there
// is nothing left to do. Must not throw.
void set_idle_work(bool (*work)());

}  // namespace mamba
