// Runs GPU kernels on the host, for tests: the threads of a group are fibers of one operating system thread, switched
// at barriers and shuffles. Between two of these the threads run one after another, in an order that changes from
// launch to launch, so that a missing barrier shows as a wrong result; shared memory starts as NaN. A barrier or
// shuffle that some threads of the group do not reach is an Error, and so is a grid barrier that a group does not
// reach. Groups run one after another, each as far as it comes without the others; those of a launch in pairs by turns,
// and an Error is that none of them can go on.
#pragma once

#include <mlx/array.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "mamba/base/error.h"

namespace mamba::ops::gpu::host {

constexpr int kSimdWidth = 32;

// Each thread makes them of each of its arrays, so they lie on its stack.
class Sizes {
 public:
  template <typename Values>
  explicit Sizes(const Values& values) {
    check(values.size() <= kMost, "a GPU kernel was given an array of {} dimensions", values.size());
    std::copy(values.begin(), values.end(), values_.begin());
  }
  // 0 past the end, as for an array that stands in for an absent one.
  int64_t operator[](int axis) const {
    return static_cast<size_t>(axis) < kMost ? values_[static_cast<size_t>(axis)] : 0;
  }

 private:
  static constexpr size_t kMost = 8;
  std::array<int64_t, kMost> values_{};
};

class Output;

// An array of any dtype, read as numbers. Reading outside the array's memory is an Error.
class Input {
 public:
  explicit Input(const mlx::core::array& a);
  double operator[](int64_t i) const;
  // From element `by` on, as a pointer would.
  Input operator+(int64_t by) const;
  void operator+=(int64_t by) { start_ += by; }
  Sizes shape() const;
  Sizes strides() const;
  int number_bytes() const;
  Output writable() const;

 private:
  const mlx::core::array* array_;
  int64_t first_, last_;  // elements that exist, relative to the array's start
  int64_t start_ = 0;
};

// An array of any dtype, written as float32 or int and rounded once, and read as an Input is.
class Output {
 public:
  class Element {
   public:
    Element(const Output& out, int64_t i) : out_(out), i_(i) {}
    void operator=(float value) const { out_.store(i_, value); }
    void operator=(int value) const { out_.store(i_, value); }
    operator double() const { return out_.load(i_); }  // NOLINT(google-explicit-constructor)

   private:
    const Output& out_;
    int64_t i_;
  };
  explicit Output(mlx::core::array& a) : array_(&a) {}
  Element operator[](int64_t i) const { return {*this, start_ + i}; }
  Output operator+(int64_t by) const;
  void operator+=(int64_t by) { start_ += by; }

 private:
  void store(int64_t i, float value) const;
  void store(int64_t i, int value) const;
  template <typename T>
  void store_number(int64_t i, T value) const;
  double load(int64_t i) const;
  mlx::core::array* array_;
  int64_t start_ = 0;
};

struct Launch {
  std::map<std::string, const mlx::core::array*, std::less<>> inputs;
  std::map<std::string, mlx::core::array*, std::less<>> outputs;
  std::map<std::string, int, std::less<>> constants;  // a dtype as its mx::Dtype::Val
  int groups[3];
  int threads;
  int shared_more = 0;  // bytes, as Grid has them
  bool in_pairs = false;

  // Throw Error where there is no such name.
  Input input(std::string_view name) const;
  Output output(std::string_view name) const;
  int constant(std::string_view name) const;
};

using Body = void (*)(const Launch& launch);

// Runs `body` for each thread of each group.
void run(Body body, const Launch& launch);

// For bodies: what the dialect's words mean.
int thread_index();
int group_index(int axis);
int groups(int axis);
void barrier();
// Of the first `threads`.
void barrier_of(int threads);
// Until other threads have made it true.
void wait_until(const std::function<bool()>& condition);
void grid_barrier();
float shuffle(float value, int lane);
float shuffle_xor(float value, int mask);
// What all lanes of a SIMD group passed, lane after lane: `count` numbers each, at most 32.
const float* share(const float* values, int count);
void* shared_bytes(int64_t bytes);
// What the other group of the pair has in its shared memory where this one has `at`.
void* at_partner(void* at);

template <typename T>
T* shared(int64_t count) {
  return static_cast<T*>(shared_bytes(count * static_cast<int64_t>(sizeof(T))));
}

}  // namespace mamba::ops::gpu::host
