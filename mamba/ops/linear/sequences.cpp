#include "mamba/ops/linear/sequences.h"

#include <algorithm>
#include <cstring>

namespace mamba::ops::linear_detail {

namespace mx = mlx::core;

SequenceShape::SequenceShape(const mx::Shape& shape) {
  const size_t axes = shape.size();
  length = axes >= 2 ? shape[axes - 2] : 1;
  for (size_t axis = 0; axis + 2 < axes; ++axis) {
    sequences *= shape[axis];
  }
}

namespace {

template <typename Pointer>
std::vector<Pointer> row_pointers(const mx::array& a, Pointer data) {
  const size_t axes = a.ndim();
  int64_t rows = 1;
  for (size_t axis = 0; axis + 1 < axes; ++axis) {
    rows *= a.shape()[axis];
  }
  const auto item = static_cast<int64_t>(a.itemsize());
  std::vector<Pointer> pointers(static_cast<size_t>(rows));
  for (int64_t row = 0; row < rows; ++row) {
    int64_t rest = row;
    int64_t offset = 0;
    for (size_t axis = axes - 1; axis-- > 0;) {
      offset += rest % a.shape()[axis] * a.strides()[axis];
      rest /= a.shape()[axis];
    }
    pointers[static_cast<size_t>(row)] = data + offset * item;
  }
  return pointers;
}

}  // namespace

Rows rows_of(const mx::array& a) {
  const std::vector<const char*> rows = row_pointers(a, reinterpret_cast<const char*>(a.data<uint8_t>()));
  return {.rows = {rows.begin(), rows.end()}, .type = float_type(a.dtype())};
}

OutRows out_rows_of(mx::array& a) {
  const std::vector<char*> rows = row_pointers(a, reinterpret_cast<char*>(a.data<uint8_t>()));
  return {.rows = {rows.begin(), rows.end()}, .type = float_type(a.dtype())};
}

Matrix matrix_of(const mx::array& a) {
  return {.data = a.data<uint8_t>(), .stride = a.strides()[0], .type = float_type(a.dtype())};
}

Span span_of(const int32_t* spans, int64_t index, int64_t length) {
  if (spans == nullptr) {
    return {.begin = 0, .end = length};
  }
  const int64_t begin = std::clamp<int64_t>(spans[2 * index], 0, length);
  return {.begin = begin, .end = std::clamp<int64_t>(spans[2 * index + 1], begin, length)};
}

void clear_outside(const OutRows& all, int64_t first, int64_t length, Span span, int64_t columns) {
  const auto bytes = static_cast<size_t>(columns * size_of(all.type));
  for (int64_t row = 0; row < length; ++row) {
    if (row < span.begin || row >= span.end) {
      std::memset(all.rows[static_cast<size_t>(first + row)], 0, bytes);
    }
  }
}

}  // namespace mamba::ops::linear_detail
