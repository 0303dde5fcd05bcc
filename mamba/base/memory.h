// How much memory this process has used.
#pragma once

#include <cstdint>

namespace mamba {

// The largest resident set so far, in bytes, mapped files included (getrusage's ru_maxrss).
uint64_t peak_memory_bytes();

}  // namespace mamba
