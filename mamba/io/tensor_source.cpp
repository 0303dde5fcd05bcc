#include "mamba/io/tensor_source.h"

#include <algorithm>

#include "mamba/base/error.h"

namespace mamba::io {

namespace mx = mlx::core;

uint64_t total_bytes(const TensorSource& source) {
  uint64_t total = 0;
  for (const std::string& name : source.names()) {
    total += source.info(name).bytes;
  }
  return total;
}

bool checked_bytes(const mx::Shape& shape, size_t item_size, uint64_t& bytes) {
  constexpr uint64_t kLimit = uint64_t{1} << 62;
  uint64_t product = item_size;
  bool empty = false;
  for (const int axis : shape) {
    empty = empty || axis == 0;
    if (__builtin_mul_overflow(product, static_cast<uint64_t>(std::max(axis, 1)), &product) || product > kLimit) {
      return false;
    }
  }
  bytes = empty ? 0 : product;
  return true;
}

std::string shown(const mx::Shape& shape) {
  return fmt::format("({}{})", fmt::join(shape.begin(), shape.end(), ", "), shape.size() == 1 ? "," : "");
}

}  // namespace mamba::io
