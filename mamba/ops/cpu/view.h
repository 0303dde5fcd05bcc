// What a kernel knows of an array: where it is, how its rows lie, and its element type. Plain data, so that a
// dispatched lambda can hold it.
#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#include "mamba/base/error.h"

namespace mamba::ops::cpu {

enum class Element { kFloat32, kBfloat16, kFloat16 };

// Throws Error for any other dtype.
inline Element element_of(const mlx::core::array& a) {
  if (a.dtype() == mlx::core::bfloat16) {
    return Element::kBfloat16;
  }
  if (a.dtype() == mlx::core::float16) {
    return Element::kFloat16;
  }
  check(a.dtype() == mlx::core::float32, "a CPU kernel was given an array that is not floating point");
  return Element::kFloat32;
}

// Calls f(T{}) with the C++ type of `element`.
template <typename F>
auto visit(Element element, F&& f) {
  switch (element) {
    case Element::kBfloat16:
      return std::forward<F>(f)(mlx::core::bfloat16_t{});
    case Element::kFloat16:
      return std::forward<F>(f)(mlx::core::float16_t{});
    default:
      return std::forward<F>(f)(float{});
  }
}

// A (batch, rows, columns) array with contiguous columns; strides in elements. Absent: data is null.
struct Rows {
  const void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t row_stride = 0;

  template <typename T>
  const T* row(int64_t b, int64_t t) const {
    return static_cast<const T*>(data) + b * batch_stride + t * row_stride;
  }
};

// Of a (B, L, X) array, or of a (B, X) array as L = 1.
inline Rows rows_of(const mlx::core::array& a) {
  return {a.data<void>(), a.strides()[0], a.ndim() == 3 ? a.strides()[1] : 0};
}

// A contiguous list of numbers. Absent: data is null.
struct Numbers {
  const void* data = nullptr;
  Element element = Element::kFloat32;

  Numbers from(int64_t i) const {
    return {static_cast<const char*>(data) + i * (element == Element::kFloat32 ? 4 : 2), element};
  }
};

inline Numbers numbers_of(const mlx::core::array& a) {
  return {a.data<void>(), element_of(a)};
}

// Positions [begin, end) of row b, from spans of shape (B, 2), or all `length` where spans is null.
inline std::pair<int64_t, int64_t> span_of(const int32_t* spans, int64_t b, int64_t length) {
  if (spans == nullptr) {
    return {0, length};
  }
  const auto cut = [&](int64_t t) { return t < 0 ? 0 : (t > length ? length : t); };
  const int64_t begin = cut(spans[2 * b]);
  const int64_t end = cut(spans[2 * b + 1]);
  return {begin, end < begin ? begin : end};
}

// Floats for one thread to work in, 64-byte aligned, with undefined contents; the next call from the same thread takes
// them back. A kernel asks once for all it needs.
inline float* scratch(size_t count) {
  struct Buffer {
    ~Buffer() { std::free(data); }
    float* data = nullptr;
    size_t size = 0;
  };
  thread_local Buffer buffer;
  if (buffer.size < count) {
    std::free(buffer.data);
    const size_t bytes = (count * sizeof(float) + 63) / 64 * 64;
    buffer.data = static_cast<float*>(std::aligned_alloc(64, bytes));
    if (buffer.data == nullptr) {
      throw std::bad_alloc();
    }
    buffer.size = count;
  }
  return buffer.data;
}

}  // namespace mamba::ops::cpu
