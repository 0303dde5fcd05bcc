// Which instruction sets the CPU kernels are compiled for; to be included before hwy/foreach_target.h.
//
// On x86: AVX2, AVX-512 and portable code for what is older. On ARM: NEON; the scalable targets are left out because
// vectors are elements of arrays here, and scratch memory is laid out for a length known when a kernel is compiled.
//
// Sanitized builds do without AVX-512: instrumented kernels are slow to compile, and its code is AVX2's with another
// number of lanes.
#pragma once

// Highway's emulated vectors of four are open to some compilers and not to others. One lane is open to all, and
// compiles in a fifth of the time.
#define HWY_BROKEN_EMU128 1
#include <hwy/detect_targets.h>

#include "mamba/ops/cpu/unroll.h"

#ifdef MAMBA_SANITIZED
#define MAMBA_OPS_CPU_SLOW_TO_SANITIZE HWY_AVX3
#else
#define MAMBA_OPS_CPU_SLOW_TO_SANITIZE 0
#endif

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS                                                                        \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV | \
   MAMBA_OPS_CPU_SLOW_TO_SANITIZE)
