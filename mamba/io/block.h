// Immutable bytes with an owner, and arrays that lie in them.
#pragma once

#include <mlx/array.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>

namespace mamba::io {

struct Block {
  std::shared_ptr<const void> owner;
  const std::byte* data = nullptr;
  size_t size = 0;
  bool mapped = false;  // whole pages of its own: those of an array are dropped when it goes

  std::string_view text() const { return {reinterpret_cast<const char*>(data), size}; }
};

// The whole file, mapped. Throws Error with the reason.
Block map_file(const std::filesystem::path& path);

// Memory of `size` bytes for the caller to fill through `bytes` before it shares the block; aligned to 64.
// Throws Error when there is no such memory.
Block allocate_block(size_t size, std::byte*& bytes);

// A copy of `text`.
Block copy_block(std::string_view text);

// True when arrays may lie in memory that MLX did not allocate: on its CPU back end, found out by asking.
bool arrays_in_place();

// The row-contiguous array at block.data + offset. In place where arrays_in_place() and the address is a multiple of
// the item size, else a copy. The caller has checked that the bytes are inside the block.
mlx::core::array array_in_block(const Block& block, uint64_t offset, const mlx::core::Shape& shape,
                                mlx::core::Dtype dtype);

// A row-contiguous copy of the view with these strides, in items.
mlx::core::array copy_strided(const Block& block, uint64_t offset, const mlx::core::Shape& shape,
                              const std::vector<int64_t>& strides, mlx::core::Dtype dtype);

}  // namespace mamba::io
