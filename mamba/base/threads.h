// One pool of threads for every kernel of the process.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace mamba {

// Threads that parallel_for uses, the caller among them. Starts as the number of processors this process may run on.
int num_threads();

// `count` < 1 goes back to the start value. Not to be called while a parallel_for runs.
void set_num_threads(int count);

// A callable by reference: no allocation, valid for the length of the call it is passed to.
class RangeFn {
 public:
  template <typename F, typename = std::enable_if_t<!std::is_same_v<std::remove_cvref_t<F>, RangeFn>>>
  RangeFn(F&& f)  // NOLINT(google-explicit-constructor): lambdas are passed as they are
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* object, int64_t begin, int64_t end) {
          (*static_cast<std::remove_reference_t<F>*>(object))(begin, end);
        }) {}

  void operator()(int64_t begin, int64_t end) const { call_(object_, begin, end); }

 private:
  void* object_;
  void (*call_)(void*, int64_t, int64_t);
};

// Calls body(begin, end) for disjoint ranges that cover [0, count), each of at most `grain` items, on the pool and on
// the calling thread. Ranges are handed out one by one, so a thread that loses its core does not hold up the others
// by more than one range. Which thread takes which range is not defined: a body must give the same result for any
// split. Calls from inside a body, and calls while another thread's parallel_for runs, run on the calling thread
// alone. `body` must not throw.
void parallel_for(int64_t count, int64_t grain, RangeFn body);

}  // namespace mamba
