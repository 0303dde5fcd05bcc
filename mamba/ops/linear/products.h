// Inside linear: the products its CPU kernels compute, as plain memory.
#pragma once

#include <mlx/array.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace mamba::ops::linear_detail {

enum class Float : uint8_t { kFloat32, kBfloat16, kFloat16 };

Float float_type(mlx::core::Dtype dtype);
constexpr int64_t size_of(Float type) {
  return type == Float::kFloat32 ? 4 : 2;
}

// A matrix of which each row is contiguous; rows lie anywhere.
struct Rows {
  std::vector<const void*> rows;
  Float type = Float::kFloat32;

  int64_t count() const { return static_cast<int64_t>(rows.size()); }
};

// A matrix whose rows are `stride` elements apart.
struct Matrix {
  const void* data = nullptr;
  int64_t stride = 0;
  Float type = Float::kFloat32;
};

// Where results go: row i of the product to rows[i], rounded once to `type`.
struct OutRows {
  std::vector<void*> rows;
  Float type = Float::kFloat32;
};

// Float32 memory that kernels share, one product at a time. It grows to the largest product so far and is kept: a
// decode step must not pay for fresh pages. Growing happens in reserve(), called where an exception can still be
// thrown; lock() hands the memory to the product that runs.
class Workspace {
 public:
  static Workspace& instance();

  void reserve(int64_t floats);  // throws std::bad_alloc
  // At least as many floats as any finished reserve() asked for, aligned to 64 bytes.
  float* data() const { return data_; }
  [[nodiscard]] std::unique_lock<std::mutex> lock() { return std::unique_lock<std::mutex>(mutex_); }

 private:
  std::mutex mutex_;
  float* data_ = nullptr;
  int64_t capacity_ = 0;
};

// Floats from one packed row to the next: whole vectors of any target, and never a multiple of the page size, at
// which rows would fall into the same sets of the first-level cache.
constexpr int64_t packed_stride(int64_t columns) {
  const int64_t lines = (columns + 31) / 32 * 2;
  return 16 * (lines % 32 == 0 ? lines + 1 : lines);
}

}  // namespace mamba::ops::linear_detail
