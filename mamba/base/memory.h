// How much memory this process has used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace mamba {

// Zeros that take memory once they are touched, in large pages where the system gives them: a stream of reads through
// small ones is a quarter slower. Throws Error when there is no room.
std::shared_ptr<std::byte> map_memory(size_t bytes);

constexpr size_t kLargePage = size_t{2} << 20;

// Asks for large pages for this memory, which begins at a multiple of kLargePage: before it is touched.
void prefer_large_pages(void* memory, size_t bytes);

// The largest resident set so far, in bytes, mapped files included (Linux's VmHWM, else getrusage's ru_maxrss).
uint64_t peak_memory_bytes();

// For a program's first lines: freed memory stays with the process and is used again, instead of going back to the
// system and coming again page by page, zeroed. A training step that makes the same large arrays anew each time runs
// 15 % faster, and its peak is the same. Only where the C library is glibc; a policy of the whole process, so no
// library's to choose.
void keep_freed_memory();

}  // namespace mamba
