// Kernels that multiply pairs of bfloat16 and fours of bytes, which Highway's targets of this version do not cover.
// Written with intrinsics between MAMBA_AVX512_BF16_BEGIN and _END; run where has_bf16_products() says so.
#pragma once

#include "mamba/ops/cpu/unroll.h"

#if defined(__x86_64__)
#define MAMBA_AVX512_BF16 1
#include <immintrin.h>

#define MAMBA_AVX512_BF16_TARGET "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx512bf16"
#define MAMBA_AVX512_BF16_QUOTED(text) _Pragma(#text)
#define MAMBA_AVX512_BF16_PRAGMA(text) MAMBA_AVX512_BF16_QUOTED(text)
#if defined(__clang__)
#define MAMBA_AVX512_BF16_BEGIN \
  MAMBA_AVX512_BF16_PRAGMA(clang attribute push(__attribute__((target(MAMBA_AVX512_BF16_TARGET))), apply_to = function))
#define MAMBA_AVX512_BF16_END MAMBA_AVX512_BF16_PRAGMA(clang attribute pop)
#else
#define MAMBA_AVX512_BF16_BEGIN              \
  MAMBA_AVX512_BF16_PRAGMA(GCC push_options) \
  MAMBA_AVX512_BF16_PRAGMA(GCC target(MAMBA_AVX512_BF16_TARGET))
#define MAMBA_AVX512_BF16_END MAMBA_AVX512_BF16_PRAGMA(GCC pop_options)
#endif
#endif

namespace mamba::ops::cpu {

// Whether such kernels run here. Not where a test holds Highway to lesser targets.
bool has_bf16_products();

}  // namespace mamba::ops::cpu
