// Inside linear: the SIMD targets its kernels are compiled for. AVX2, AVX-512 and NEON, and whatever the compiler's
// own target is (on x86-64 one lane) for the rest; SVE's vectors cannot be elements of arrays. No include guard: the
// list is a macro.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
