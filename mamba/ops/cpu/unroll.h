// For kernels that keep numbers in registers. Sanitized builds do without either: instrumented, a function is slow to
// compile, and as slow again for every copy of its loops' bodies or of itself.
#pragma once

#ifdef MAMBA_SANITIZED
#define MAMBA_CPU_UNROLL(count)
#define MAMBA_CPU_INLINE __attribute__((noinline))
#else
#define MAMBA_CPU_PRAGMA(text) _Pragma(#text)
#define MAMBA_CPU_UNROLL(count) MAMBA_CPU_PRAGMA(GCC unroll count)
#define MAMBA_CPU_INLINE __attribute__((always_inline))
#endif
