#include "mamba/base/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "mamba/base/error.h"

namespace mamba {
namespace {

TEST(Memory, MappedMemoryIsZeroAndWritable) {
  for (const size_t bytes : {size_t{1}, size_t{4097}, (size_t{2} << 20) - 1, (size_t{5} << 20) + 3}) {
    const std::shared_ptr<std::byte> memory = map_memory(bytes);
    EXPECT_TRUE(std::all_of(memory.get(), memory.get() + bytes, [](std::byte b) { return b == std::byte{0}; }));
    std::memset(memory.get(), 7, bytes);
    EXPECT_EQ(memory.get()[bytes - 1], std::byte{7});
  }
}

TEST(Memory, OnlyWhatIsTouchedIsTaken) {
  const uint64_t before = peak_memory_bytes();
  const std::shared_ptr<std::byte> memory = map_memory(size_t{1} << 30);
  std::memset(memory.get(), 1, size_t{8} << 20);
  EXPECT_LT(peak_memory_bytes() - before, uint64_t{64} << 20);
}

#ifndef MAMBA_SANITIZED  // their own bookkeeping ends the process first
TEST(Memory, TooMuchIsAnError) {
  EXPECT_THROW(map_memory(size_t{1} << 56), Error);
}
#endif

}  // namespace
}  // namespace mamba
