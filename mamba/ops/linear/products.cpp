#include "mamba/ops/linear/products.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "mamba/base/memory.h"

namespace mamba::ops::linear_detail {

namespace mx = mlx::core;

Float float_type(mx::Dtype dtype) {
  return dtype == mx::float32 ? Float::kFloat32 : dtype == mx::bfloat16 ? Float::kBfloat16 : Float::kFloat16;
}

// Never destroyed: MLX's stream threads may still be inside a kernel when static destructors run.
Workspace& Workspace::instance() {
  static Workspace* const workspace = new Workspace;
  return *workspace;
}

void Workspace::reserve(int64_t floats) {
  const std::unique_lock<std::mutex> locked = lock();
  if (floats <= capacity_) {
    return;
  }
  // Half as much again, so that prompts of growing length do not reallocate each time.
  const int64_t wanted = std::max(floats, capacity_ + capacity_ / 2);
  const size_t needed = static_cast<size_t>(wanted) * sizeof(float);
  const size_t page = needed < kLargePage ? 4096 : kLargePage;
  const size_t bytes = (needed + page - 1) / page * page;
  auto* grown = static_cast<float*>(std::aligned_alloc(page, bytes));
  if (grown == nullptr) {
    throw std::bad_alloc();
  }
  // Rows of what a prompt's loops hand on lie some small pages apart.
  prefer_large_pages(grown, bytes);
  std::free(data_);
  data_ = grown;
  capacity_ = wanted;
}

}  // namespace mamba::ops::linear_detail
