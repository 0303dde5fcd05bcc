// The tile unit of AMX: eight tiles of 16 rows of 64 bytes.
#pragma once

#if defined(__x86_64__) && defined(__linux__)
#define MAMBA_AMX 1
#endif

namespace mamba::ops::cpu {

// Whether the processor multiplies tiles of bfloat16 and of bytes, and the system lets this process use them. The first
// call asks for that, on behalf of all threads.
bool has_tiles();

}  // namespace mamba::ops::cpu
