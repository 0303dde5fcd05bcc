// Asking for lines of memory that are written soon.
#pragma once

namespace mamba::ops::cpu {

// So that no other core has a copy of the line when it is written: a store to a line that another core has read waits
// until that has given it up, even where the line itself is near. A compiler makes a prefetch for reading of
// __builtin_prefetch(p, 1) unless told that the processor has another; all with 64 bits accept it. Only a hint, so that
// p need not point to memory.
__attribute__((always_inline)) inline void prefetch_to_write(const void* p) {
#if defined(__x86_64__)
  asm volatile("prefetchw (%0)" : : "r"(p));
#else
  __builtin_prefetch(p, 1);
#endif
}

}  // namespace mamba::ops::cpu
