// exp, softplus, sigmoid and silu on vectors of float. Highway per-target header.
//
// exp reduces its argument to r = x - n ln 2, |r| <= ln 2 / 2, evaluates a polynomial and scales by 2^n. AVX-512 looks
// up 2^(j / 32) in two registers, so that |r| <= ln 2 / 64 and two terms are enough, and scales in one instruction that
// overflows and underflows as it should: 11 instead of 22 instructions for exp, 9 instead of 14 for 2^x. softplus uses
// log1p(e) = 2 atanh(e / (2 + e)), whose argument stays below 1/3 for e <= 1 and keeps the relative precision of a tiny
// e. The polynomials are minimax fits of (e^r - 1 - r) / r^2, (2^f - 1) / f and (atanh(sqrt(w)) / sqrt(w) - 1) / w.

#if defined(MAMBA_OPS_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_OPS_CPU_MATH_INL_H_
#undef MAMBA_OPS_CPU_MATH_INL_H_
#else
#define MAMBA_OPS_CPU_MATH_INL_H_
#endif

#include <hwy/highway.h>

#include "mamba/ops/cpu/targets.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr float kLog2e = 1.4426950408889634f;
// 1.5 * 2^23: adding it leaves the nearest integer in a float's low bits. The bias makes those bits the exponent of
// 2^n when they are shifted into place.
constexpr float kRound = 12582912.0f;
constexpr float kRoundBiased = kRound + 127.0f;

// x held to [low, high]; a NaN stays one.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V clamp(D d, V x, float low, float high) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
  // On x86 the second operand is returned where one is NaN; on ARM NaN wins.
  return hn::Min(hn::Set(d, high), hn::Max(hn::Set(d, low), x));
#else
  x = hn::IfThenElse(hn::Lt(x, hn::Set(d, low)), hn::Set(d, low), x);
  return hn::IfThenElse(hn::Gt(x, hn::Set(d, high)), hn::Set(d, high), x);
#endif
}

// 2^n for an integer n in [-127, 128], given as n + kRoundBiased: 0 at -127, infinity at 128.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V power_of_two(D d, V biased) {
  const hn::RebindToUnsigned<D> du;
  return hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(du, biased)));
}

// 2^x, relative error < 2e-7 for x in [-126.5, 127.5]; 0 below, infinity above, exactly 1 at 0.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp2_normal(D d, V x) {
  x = clamp(d, x, -127.0f, 128.0f);
  const V biased = hn::Add(x, hn::Set(d, kRoundBiased));
  const V f = hn::Sub(x, hn::Sub(biased, hn::Set(d, kRoundBiased)));
  V p = hn::Set(d, 1.32647273e-3f);
  p = hn::MulAdd(p, f, hn::Set(d, 9.67151299e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.55073358e-2f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.40222424e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.93147004e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  return hn::Mul(p, power_of_two(d, biased));
}

#if HWY_TARGET <= HWY_AVX3
// 2^(j / 32)
alignas(64) inline constexpr float kPowers[32] = {
    1.0f,        1.02189715f, 1.04427378f, 1.0671404f,  1.09050773f, 1.11438674f, 1.13878863f, 1.16372486f,
    1.18920712f, 1.21524736f, 1.24185781f, 1.26905096f, 1.29683955f, 1.32523664f, 1.35425555f, 1.38390988f,
    1.41421356f, 1.44518081f, 1.47682615f, 1.50916443f, 1.54221083f, 1.57598085f, 1.61049033f, 1.64575548f,
    1.68179283f, 1.7186193f,  1.75625216f, 1.79470908f, 1.83400809f, 1.87416763f, 1.91520656f, 1.95714412f};
// 1.5 * 2^18: adding it leaves the nearest multiple of 1 / 32 in a float's low bits.
constexpr float kRound32nds = 393216.0f;

// to = 2^n (1 + linear f + square f^2), n a multiple of 1 / 32, given as it is and as n + kRound32nds.
template <int kCount, class D, class V = hn::Vec<D>>
HWY_INLINE void scaled_powers(D d, const V (&n)[kCount], const V (&rounded)[kCount], const V (&f)[kCount], float linear,
                              float square, V (&to)[kCount]) {
  const __m512 low = _mm512_load_ps(kPowers);
  const __m512 high = _mm512_load_ps(kPowers + 16);
  V power[kCount];
  V g[kCount];
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    power[i] = V{_mm512_permutex2var_ps(low, _mm512_castps_si512(rounded[i].raw), high)};
    g[i] = hn::MulAdd(hn::Set(d, square), f[i], hn::Set(d, linear));
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    g[i] = hn::Mul(g[i], f[i]);
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    g[i] = hn::MulAdd(power[i], g[i], power[i]);
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    to[i] = V{_mm512_scalef_ps(g[i].raw, n[i].raw)};
  }
}
#endif

// 2^x for finite x, relative error < 2e-7 where the result is normal; 0 or denormal below, infinity above, exactly 1 at
// 0. The exp of the scan's inner loop. Of kCount vectors, step by step: each step waits for the one before, and a
// processor does not look far enough ahead to find the next vector's.
template <int kCount, class D, class V = hn::Vec<D>>
HWY_INLINE void exp2_of_finite_each(D d, V (&x)[kCount]) {
#if HWY_TARGET <= HWY_AVX3
  V rounded[kCount];
  V n[kCount];
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    rounded[i] = hn::Add(x[i], hn::Set(d, kRound32nds));
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    n[i] = hn::Sub(rounded[i], hn::Set(d, kRound32nds));
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    x[i] = hn::Sub(x[i], n[i]);
  }
  scaled_powers<kCount>(d, n, rounded, x, 0.693157334f, 0.240226763f, x);
#else
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    x[i] = exp2_normal(d, x[i]);
  }
#endif
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp2_of_finite(D d, V x) {
  V each[1] = {x};
  exp2_of_finite_each(d, each);
  return each[0];
}

// The same for any x: 0 for -infinity, and a NaN stays one.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp2(D d, V x) {
#if HWY_TARGET <= HWY_AVX3
  return exp2_of_finite(d, clamp(d, x, -200.0f, 200.0f));
#else
  return exp2_normal(d, x);
#endif
}

// e^x over the whole range, denormal results included; relative error < 2e-7 where the result is normal.
template <int kCount, class D, class V = hn::Vec<D>>
HWY_INLINE void exp_each(D d, V (&x)[kCount]) {
  constexpr float kLn2High = 0.693359375f;  // few enough bits that n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  V n[kCount];
  V r[kCount];
#if HWY_TARGET <= HWY_AVX3
  V rounded[kCount];
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    x[i] = clamp(d, x[i], -105.0f, 89.0f);
    rounded[i] = hn::MulAdd(x[i], hn::Set(d, kLog2e), hn::Set(d, kRound32nds));
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    n[i] = hn::Sub(rounded[i], hn::Set(d, kRound32nds));
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    r[i] = hn::NegMulAdd(n[i], hn::Set(d, kLn2High), x[i]);
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    r[i] = hn::NegMulAdd(n[i], hn::Set(d, kLn2Low), r[i]);
  }
  scaled_powers<kCount>(d, n, rounded, r, 1.00001466f, 0.500000534f, x);
#else
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    x[i] = clamp(d, x[i], -105.0f, 89.0f);
    n[i] = hn::Sub(hn::MulAdd(x[i], hn::Set(d, kLog2e), hn::Set(d, kRound)), hn::Set(d, kRound));
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    r[i] = hn::NegMulAdd(n[i], hn::Set(d, kLn2High), x[i]);
    r[i] = hn::NegMulAdd(n[i], hn::Set(d, kLn2Low), r[i]);
    x[i] = hn::Set(d, 1.38146e-3f);
  }
  for (const float coefficient : {8.36871e-3f, 4.166839e-2f, 1.6666521e-1f, 4.9999993e-1f}) {
    MAMBA_CPU_UNROLL(8)
    for (int i = 0; i < kCount; ++i) {
      x[i] = hn::MulAdd(x[i], r[i], hn::Set(d, coefficient));
    }
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    const V p = hn::MulAdd(hn::Mul(r[i], r[i]), x[i], hn::Add(r[i], hn::Set(d, 1.0f)));
    // In two factors: neither is denormal nor infinite where the product is.
    const V half = hn::Sub(hn::MulAdd(n[i], hn::Set(d, 0.5f), hn::Set(d, kRound)), hn::Set(d, kRound));
    const V first = power_of_two(d, hn::Add(half, hn::Set(d, kRoundBiased)));
    const V second = power_of_two(d, hn::Add(hn::Sub(n[i], half), hn::Set(d, kRoundBiased)));
    x[i] = hn::Mul(hn::Mul(p, first), second);
  }
#endif
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp(D d, V x) {
  V each[1] = {x};
  exp_each(d, each);
  return each[0];
}

// log(1 + e) for e in [0, 1], relative error < 2e-7 also where e is tiny.
template <int kCount, class D, class V = hn::Vec<D>>
HWY_INLINE void log1p_unit_each(D d, V (&e)[kCount]) {
  V w[kCount];
  V p[kCount];
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    e[i] = hn::Div(e[i], hn::Add(e[i], hn::Set(d, 2.0f)));
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    w[i] = hn::Mul(e[i], e[i]);
    p[i] = hn::Set(d, 0.12150467f);
  }
  for (const float coefficient : {0.10713829f, 0.14308442f, 0.19999439f, 0.33333338f}) {
    MAMBA_CPU_UNROLL(8)
    for (int i = 0; i < kCount; ++i) {
      p[i] = hn::MulAdd(p[i], w[i], hn::Set(d, coefficient));
    }
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    const V twice = hn::Add(e[i], e[i]);
    e[i] = hn::MulAdd(hn::Mul(twice, w[i]), p[i], twice);
  }
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V log1p_unit(D d, V e) {
  V each[1] = {e};
  log1p_unit_each(d, each);
  return each[0];
}

// log(1 + e^x). PyTorch returns x above 20, where float32 does not tell the two apart.
template <int kCount, class D, class V = hn::Vec<D>>
HWY_INLINE void softplus_each(D d, V (&x)[kCount]) {
  V e[kCount];
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    e[i] = hn::Neg(hn::Abs(x[i]));
  }
  exp_each(d, e);
  log1p_unit_each(d, e);
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    const V positive = hn::IfThenElse(hn::Lt(x[i], hn::Zero(d)), hn::Zero(d), x[i]);
    x[i] = hn::Add(positive, e[i]);
  }
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V softplus(D d, V x) {
  V each[1] = {x};
  softplus_each(d, each);
  return each[0];
}

// softplus(x), to the bit, and its derivative 1 / (1 + e^-x), from one exponential.
template <int kCount, class D, class V = hn::Vec<D>>
HWY_INLINE void softplus_and_slope_each(D d, V (&x)[kCount], V (&slope)[kCount]) {
  const V one = hn::Set(d, 1.0f);
  V e[kCount];
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    e[i] = hn::Neg(hn::Abs(x[i]));
  }
  exp_each(d, e);
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    const auto negative = hn::Lt(x[i], hn::Zero(d));
    slope[i] = hn::Div(hn::IfThenElse(negative, e[i], one), hn::Add(one, e[i]));
    x[i] = hn::IfThenElse(negative, hn::Zero(d), x[i]);
  }
  log1p_unit_each(d, e);
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    x[i] = hn::Add(x[i], e[i]);
  }
}

// 1 / (1 + e^-x), softplus's derivative.
template <int kCount, class D, class V = hn::Vec<D>>
HWY_INLINE void sigmoid_each(D d, V (&x)[kCount]) {
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    x[i] = hn::Neg(x[i]);
  }
  exp_each(d, x);
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    x[i] = hn::Div(hn::Set(d, 1.0f), hn::Add(hn::Set(d, 1.0f), x[i]));
  }
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V sigmoid(D d, V x) {
  V each[1] = {x};
  sigmoid_each(d, each);
  return each[0];
}

// x / (1 + e^-x).
template <int kCount, class D, class V = hn::Vec<D>>
HWY_INLINE void silu_each(D d, V (&x)[kCount]) {
  V e[kCount];
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    e[i] = hn::Neg(x[i]);
  }
  exp_each(d, e);
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kCount; ++i) {
    x[i] = hn::Div(x[i], hn::Add(hn::Set(d, 1.0f), e[i]));
  }
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V silu(D d, V x) {
  V each[1] = {x};
  silu_each(d, each);
  return each[0];
}

}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_OPS_CPU_MATH_INL_H_
