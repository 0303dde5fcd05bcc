// exp, softplus, sigmoid and silu on vectors of float. Highway per-target header.
//
// exp reduces its argument to r = x - n ln 2, |r| <= ln 2 / 2, evaluates a polynomial and scales by 2^n. softplus uses
// log1p(e) = 2 atanh(e / (2 + e)), whose argument stays below 1/3 for e <= 1 and keeps the relative precision of a tiny
// e. The polynomials are minimax fits of (e^r - 1 - r) / r^2, (2^f - 1) / f and (atanh(sqrt(w)) / sqrt(w) - 1) / w.

#if defined(MAMBA_OPS_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_OPS_CPU_MATH_INL_H_
#undef MAMBA_OPS_CPU_MATH_INL_H_
#else
#define MAMBA_OPS_CPU_MATH_INL_H_
#endif

#include <hwy/highway.h>

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

// 2^x, relative error < 2e-7 for x in [-126.5, 127.5]; 0 below, infinity above, exactly 1 at 0. The exp of the scan's
// inner loop, where its argument has been multiplied by log2(e) beforehand.
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

// e^x over the whole range, denormal results included; relative error < 2e-7 where the result is normal.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp(D d, V x) {
  constexpr float kLn2High = 0.693359375f;  // few enough bits that n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  const V held = clamp(d, x, -105.0f, 89.0f);
  const V n = hn::Sub(hn::MulAdd(held, hn::Set(d, kLog2e), hn::Set(d, kRound)), hn::Set(d, kRound));
  V r = hn::NegMulAdd(n, hn::Set(d, kLn2High), held);
  r = hn::NegMulAdd(n, hn::Set(d, kLn2Low), r);
  V p = hn::Set(d, 1.38146e-3f);
  p = hn::MulAdd(p, r, hn::Set(d, 8.36871e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.166839e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666521e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.9999993e-1f));
  p = hn::MulAdd(hn::Mul(r, r), p, hn::Add(r, hn::Set(d, 1.0f)));
  // In two factors: neither is denormal nor infinite where the product is.
  const V half = hn::Sub(hn::MulAdd(n, hn::Set(d, 0.5f), hn::Set(d, kRound)), hn::Set(d, kRound));
  const V first = power_of_two(d, hn::Add(half, hn::Set(d, kRoundBiased)));
  const V second = power_of_two(d, hn::Add(hn::Sub(n, half), hn::Set(d, kRoundBiased)));
  return hn::Mul(hn::Mul(p, first), second);
}

// log(1 + e) for e in [0, 1], relative error < 2e-7 also where e is tiny.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V log1p_unit(D d, V e) {
  const V s = hn::Div(e, hn::Add(e, hn::Set(d, 2.0f)));
  const V w = hn::Mul(s, s);
  V p = hn::Set(d, 0.12150467f);
  p = hn::MulAdd(p, w, hn::Set(d, 0.10713829f));
  p = hn::MulAdd(p, w, hn::Set(d, 0.14308442f));
  p = hn::MulAdd(p, w, hn::Set(d, 0.19999439f));
  p = hn::MulAdd(p, w, hn::Set(d, 0.33333338f));
  const V twice = hn::Add(s, s);
  return hn::MulAdd(hn::Mul(twice, w), p, twice);
}

// log(1 + e^x). PyTorch returns x above 20, where float32 does not tell the two apart.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V softplus(D d, V x) {
  const V e = exp(d, hn::Neg(hn::Abs(x)));
  const V positive = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Zero(d), x);
  return hn::Add(positive, log1p_unit(d, e));
}

template <class V>
struct SoftplusAndSlope {
  V value;
  V slope;
};

// softplus(x), to the bit, and its derivative 1 / (1 + e^-x), from one exponential.
template <class D, class V = hn::Vec<D>>
HWY_INLINE SoftplusAndSlope<V> softplus_and_slope(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  const V e = exp(d, hn::Neg(hn::Abs(x)));
  const auto negative = hn::Lt(x, hn::Zero(d));
  const V positive = hn::IfThenElse(negative, hn::Zero(d), x);
  return {hn::Add(positive, log1p_unit(d, e)), hn::Div(hn::IfThenElse(negative, e, one), hn::Add(one, e))};
}

// 1 / (1 + e^-x), softplus's derivative.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V sigmoid(D d, V x) {
  return hn::Div(hn::Set(d, 1.0f), hn::Add(hn::Set(d, 1.0f), exp(d, hn::Neg(x))));
}

// x / (1 + e^-x).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V silu(D d, V x) {
  return hn::Div(x, hn::Add(hn::Set(d, 1.0f), exp(d, hn::Neg(x))));
}

}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_OPS_CPU_MATH_INL_H_
