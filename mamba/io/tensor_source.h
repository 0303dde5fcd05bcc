// Named tensors in a file, or in several, read one by one.
#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace mamba::io {

struct TensorInfo {
  mlx::core::Dtype dtype;
  mlx::core::Shape shape;
  uint64_t bytes;
};

using Metadata = std::map<std::string, std::string>;

// What a checkpoint offers. Opening one checks everything that can be checked without reading tensor data, so a file
// that opened does not fail later for its form. Every method is thread-safe.
//
// Files are mapped, not read. On MLX's CPU back end load() returns arrays that lie in the mapping wherever the bytes
// are aligned, uncompressed and row-contiguous: no second copy exists, and the pages are given back when the array
// goes. Elsewhere load() makes one copy and gives the pages back at once. Arrays stay valid after the source is gone.
// Arrays in a mapping are read-only memory; MLX knows that it does not own them and never writes to them.
// A file that another process truncates while it is mapped ends this process (SIGBUS); replacing it by rename, as
// AtomicFile does, is safe.
class TensorSource {
 public:
  virtual ~TensorSource() = default;

  virtual const std::vector<std::string>& names() const = 0;  // sorted, distinct
  virtual bool has(const std::string& name) const = 0;

  // Both throw Error "<file>: has no tensor <name>".
  virtual const TensorInfo& info(const std::string& name) const = 0;
  virtual mlx::core::array load(const std::string& name) const = 0;

  virtual const Metadata& metadata() const = 0;   // empty for formats that have none
  virtual const std::string& file() const = 0;    // the path that was opened
  virtual std::vector<std::string> files() const  // every file that holds tensors
  {
    return {file()};
  }
};

// The sum of `bytes` over all names.
uint64_t total_bytes(const TensorSource& source);

// The most axes and the largest size of one axis that a file may claim.
inline constexpr size_t kMaxAxes = 32;
inline constexpr int64_t kMaxAxis = INT32_MAX;  // what an mx::Shape holds

// product(shape) * item_size, or false when that overflows. Axes of size 0 count as 1 for the overflow, so that no
// stride computed from the shape overflows either.
bool checked_bytes(const mlx::core::Shape& shape, size_t item_size, uint64_t& bytes);

std::string shown(const mlx::core::Shape& shape);  // "(1536, 16)"

}  // namespace mamba::io
