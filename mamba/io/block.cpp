// MLX's CPU allocator puts a size_t in front of each buffer and hands out the address of that; raw_ptr() skips it. A
// buffer that claims to start 8 bytes before our bytes therefore reads as our bytes. Data built with a deleter is "not
// owned", so MLX neither frees it nor reuses it for a result.

#include "mamba/io/block.h"

#include <mlx/allocator.h>
#include <mlx/device.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>
#include <utility>

#include "mamba/base/error.h"
#include "mamba/base/file.h"
#include "mamba/io/tensor_source.h"

namespace mamba::io {

namespace mx = mlx::core;

namespace {

constexpr size_t kAlignment = 64;
constexpr uint64_t kReadAheadFrom = 1 << 16;  // below this the kernel's own read-ahead does as well

// Whole pages inside [data, data + bytes) only when giving back: their neighbours belong to other tensors.
void advise(const std::byte* data, uint64_t bytes, int advice, bool whole_pages) {
  static const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = whole_pages ? (first + page - 1) / page * page : first / page * page;
  const uintptr_t end = whole_pages ? (first + bytes) / page * page : first + bytes;
  if (begin < end) {
    ::madvise(reinterpret_cast<void*>(begin), end - begin, advice);  // advice: a refusal changes nothing
  }
}

void give_back_pages(const Block& block, const std::byte* data, uint64_t bytes) {
  if (block.mapped) {
    advise(data, bytes, MADV_DONTNEED, true);
  }
}

void read_ahead(const Block& block, const std::byte* data, uint64_t bytes) {
  if (block.mapped && bytes >= kReadAheadFrom) {
    advise(data, bytes, MADV_WILLNEED, false);
  }
}

uint64_t bytes_of(const mx::Shape& shape, mx::Dtype dtype) {
  uint64_t bytes = 0;
  check(checked_bytes(shape, dtype.size(), bytes), "a tensor of shape {} is too large", shown(shape));
  return bytes;
}

}  // namespace

Block map_file(const std::filesystem::path& path) {
  auto file = std::make_shared<MappedFile>(path);
  const std::byte* data = file->data();
  const size_t size = file->size();
  return {std::move(file), data, size, true};
}

Block allocate_block(size_t size, std::byte*& bytes) {
  // A unit of room in front, for MLX's size_t.
  auto* memory =
      static_cast<std::byte*>(::operator new (size + kAlignment, std::align_val_t{kAlignment}, std::nothrow));
  check(memory != nullptr, "out of memory: {} bytes are needed for one tensor", size);
  std::memcpy(memory + kAlignment - sizeof(size_t), &size, sizeof(size_t));
  std::shared_ptr<const void> owner(
      memory, [](const void* p) { ::operator delete (const_cast<void*>(p), std::align_val_t{kAlignment}); });
  bytes = memory + kAlignment;
  return {std::move(owner), bytes, size, false};
}

Block copy_block(std::string_view text) {
  std::byte* bytes = nullptr;
  Block block = allocate_block(text.size(), bytes);
  if (!text.empty()) {
    std::memcpy(bytes, text.data(), text.size());
  }
  return block;
}

bool arrays_in_place() {
  static const bool works = [] {
    if (mx::is_available(mx::Device::gpu)) {
      return false;
    }
    // First on a buffer of MLX's own: other back ends keep a handle there, which must not be made up.
    const mx::allocator::Data probe = mx::allocator::malloc(kAlignment);
    mx::allocator::Buffer theirs = probe.buffer();
    if (theirs.raw_ptr() != static_cast<char*>(theirs.ptr()) + sizeof(size_t)) {
      return false;
    }
    alignas(kAlignment) static char bytes[2 * kAlignment];
    mx::allocator::Buffer ours(bytes + kAlignment - sizeof(size_t));
    return ours.raw_ptr() == bytes + kAlignment;
  }();
  return works;
}

mx::array array_in_block(const Block& block, uint64_t offset, const mx::Shape& shape, mx::Dtype dtype) {
  const uint64_t bytes = bytes_of(shape, dtype);
  const std::byte* data = block.data + offset;
  if (bytes == 0) {
    return mx::array(mx::allocator::malloc(0), shape, dtype);
  }
  read_ahead(block, data, bytes);
  if (arrays_in_place() && reinterpret_cast<uintptr_t>(data) % dtype.size() == 0) {
    auto* start = const_cast<std::byte*>(data) - sizeof(size_t);
    return mx::array(
        mx::allocator::Data(mx::allocator::Buffer(start),
                            [block, data, bytes](mx::allocator::Buffer) { give_back_pages(block, data, bytes); }),
        shape, dtype);
  }
  mx::array copy(mx::allocator::malloc(bytes), shape, dtype);
  std::memcpy(copy.data<char>(), data, bytes);
  give_back_pages(block, data, bytes);
  return copy;
}

mx::array copy_strided(const Block& block, uint64_t offset, const mx::Shape& shape, const std::vector<int64_t>& strides,
                       mx::Dtype dtype) {
  const uint64_t bytes = bytes_of(shape, dtype);
  mx::array copy(mx::allocator::malloc(bytes), shape, dtype);
  if (bytes == 0) {
    return copy;
  }
  const size_t item = dtype.size();
  const size_t axes = shape.size();
  const int64_t inner = axes == 0 ? 1 : shape.back();
  const int64_t inner_step = axes == 0 ? 0 : strides.back() * static_cast<int64_t>(item);
  const std::byte* source = block.data + offset;
  auto* target = copy.data<std::byte>();
  std::vector<int> index(axes == 0 ? 0 : axes - 1, 0);
  for (uint64_t row = bytes / item / static_cast<uint64_t>(inner); row > 0; --row) {
    int64_t at = 0;
    for (size_t axis = 0; axis < index.size(); ++axis) {
      at += index[axis] * strides[axis];
    }
    const std::byte* from = source + at * static_cast<int64_t>(item);
    for (int64_t i = 0; i < inner; ++i, target += item) {
      std::memcpy(target, from + i * inner_step, item);
    }
    for (size_t axis = index.size(); axis-- > 0;) {
      if (++index[axis] < shape[axis]) {
        break;
      }
      index[axis] = 0;
    }
  }
  return copy;
}

}  // namespace mamba::io
