// Which instruction sets the CPU kernels are compiled for; to be included before hwy/foreach_target.h.
//
// On x86: AVX2, AVX-512 and portable code for what is older. On ARM: NEON; the scalable targets are left out because
// the kernels lay out their scratch memory for a vector length that is known when they are compiled.
#pragma once

#include <hwy/detect_targets.h>

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
