// The vector functions against long double, over their whole range, on every instruction set this machine has.
#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/cpu/math_test.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <vector>

#include "mamba/ops/cpu/floats-inl.h"
#include "mamba/ops/cpu/math-inl.h"
#include "mamba/ops/cpu/transpose-inl.h"

#ifndef MAMBA_OPS_CPU_MATH_TEST_FUNCTION
#define MAMBA_OPS_CPU_MATH_TEST_FUNCTION
namespace mamba::ops {
enum Function { kExp, kExp2, kExp2OfFinite, kExp2OfAny, kLog1p, kSoftplus, kSigmoid, kSilu };
}  // namespace mamba::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

template <typename F>
void map(const std::vector<float>& in, std::vector<float>& out, const F& f) {
  const FloatTag d;
  out.resize(in.size());
  for (size_t i = 0; i < in.size(); i += hn::Lanes(d)) {
    store_some(d, f(d, load_some(d, in.data() + i, in.size() - i)), out.data() + i, in.size() - i);
  }
}

void evaluate(Function function, const std::vector<float>& in, std::vector<float>& out) {
  switch (function) {
    case kExp:
      return map(in, out, [](FloatTag d, FloatVec x) HWY_ATTR { return exp(d, x); });
    case kExp2:
      return map(in, out, [](FloatTag d, FloatVec x) HWY_ATTR { return exp2_normal(d, x); });
    case kExp2OfFinite:
      return map(in, out, [](FloatTag d, FloatVec x) HWY_ATTR { return exp2_of_finite(d, x); });
    case kExp2OfAny:
      return map(in, out, [](FloatTag d, FloatVec x) HWY_ATTR { return exp2(d, x); });
    case kLog1p:
      return map(in, out, [](FloatTag d, FloatVec x) HWY_ATTR { return log1p_unit(d, x); });
    case kSoftplus:
      return map(in, out, [](FloatTag d, FloatVec x) HWY_ATTR { return softplus(d, x); });
    case kSigmoid:
      return map(in, out, [](FloatTag d, FloatVec x) HWY_ATTR { return sigmoid(d, x); });
    case kSilu:
      return map(in, out, [](FloatTag d, FloatVec x) HWY_ATTR { return silu(d, x); });
  }
}

// Through memory of type T and back.
template <typename T>
void round_through(const std::vector<float>& in, std::vector<float>& out) {
  const FloatTag d;
  std::vector<T> narrow(in.size());
  out.resize(in.size());
  for (size_t i = 0; i < in.size(); i += hn::Lanes(d)) {
    store_some(d, load_some(d, in.data() + i, in.size() - i), narrow.data() + i, in.size() - i);
  }
  for (size_t i = 0; i < in.size(); i += hn::Lanes(d)) {
    store_some(d, load_some(d, narrow.data() + i, in.size() - i), out.data() + i, in.size() - i);
  }
}

void round_through_bfloat16(const std::vector<float>& in, std::vector<float>& out) {
  round_through<mlx::core::bfloat16_t>(in, out);
}

void round_through_float16(const std::vector<float>& in, std::vector<float>& out) {
  round_through<mlx::core::float16_t>(in, out);
}

void turn(const float* in, int64_t in_stride, int64_t rows, int64_t columns, float* out, int64_t out_stride) {
  transpose(in, in_stride, rows, columns, out, out_stride);
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <gtest/gtest.h>
#include <mlx/types/half_types.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace mamba::ops {
namespace {

HWY_EXPORT(evaluate);
HWY_EXPORT(round_through_bfloat16);
HWY_EXPORT(round_through_float16);
HWY_EXPORT(turn);

constexpr float kInf = std::numeric_limits<float>::infinity();

// Runs the body once per instruction set that is compiled in and that this machine has.
class EveryTarget : public ::testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override {
    hwy::SetSupportedTargetsForTest(GetParam());
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
  void TearDown() override {
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }

  static std::vector<float> apply(Function function, const std::vector<float>& in) {
    std::vector<float> out;
    HWY_DYNAMIC_DISPATCH(evaluate)(function, in, out);
    return out;
  }

  // The worst relative error over `in`, where the exact value is a normal float.
  static double worst(Function function, const std::vector<float>& in, long double (*exact)(long double)) {
    const std::vector<float> out = apply(function, in);
    long double worst_error = 0.0L;
    for (size_t i = 0; i < in.size(); ++i) {
      const long double want = exact(in[i]);
      if (std::abs(want) < std::numeric_limits<float>::min()) {
        EXPECT_NEAR(out[i], static_cast<double>(want), 2e-38) << in[i];
      } else {
        worst_error = std::max(worst_error, std::abs((out[i] - want) / want));
      }
    }
    return static_cast<double>(worst_error);
  }
};

std::vector<int64_t> targets() {
  std::vector<int64_t> all;
  for (int64_t left = HWY_TARGETS & (hwy::SupportedTargets() | HWY_STATIC_TARGET); left != 0; left &= left - 1) {
    all.push_back(left & -left);
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Targets, EveryTarget, ::testing::ValuesIn(targets()),
                         [](const auto& instance) { return std::string(hwy::TargetName(instance.param)); });

// Evenly spaced numbers, and as many whose sizes are spread evenly over all exponents.
std::vector<float> range(float low, float high, size_t count = 400000) {
  std::vector<float> numbers;
  std::mt19937 random(7);
  for (size_t i = 0; i < count; ++i) {
    numbers.push_back(low + (high - low) * static_cast<float>(i) / static_cast<float>(count - 1));
    const float size = std::exp2(static_cast<float>(random() >> 8) * (127.0f / 0x1p24f) - 120.0f);
    const float other = (i % 2 == 0) ? size : -size;
    if (low <= other && other <= high) {
      numbers.push_back(other);
    }
  }
  return numbers;
}

TEST_P(EveryTarget, Exp) {
  EXPECT_LT(worst(kExp, range(-104.0f, 88.7f), [](long double x) { return std::exp(x); }), 2e-7);
  const std::vector<float> out = apply(kExp, {0.0f, -0.0f, 89.0f, kInf, -110.0f, -kInf, NAN, 1e-45f});
  const std::vector<float> want = {1.0f, 1.0f, kInf, kInf, 0.0f, 0.0f};
  EXPECT_EQ(std::vector<float>(out.begin(), out.begin() + 6), want);
  EXPECT_TRUE(std::isnan(out[6]));
  EXPECT_EQ(out[7], 1.0f);
  // Denormal results come in their own steps, not as 0.
  EXPECT_NEAR(apply(kExp, {-100.0f})[0], 3.7835e-44, 2e-45);
}

TEST_P(EveryTarget, Exp2) {
  EXPECT_LT(worst(kExp2, range(-126.0f, 127.4f), [](long double x) { return std::exp2(x); }), 2e-7);
  const std::vector<float> out = apply(kExp2, {0.0f, -1.0f, 128.0f, kInf, -127.0f, -kInf, NAN, 1e-45f});
  const std::vector<float> want = {1.0f, 0.5f, kInf, kInf, 0.0f, 0.0f};
  EXPECT_EQ(std::vector<float>(out.begin(), out.begin() + 6), want);
  EXPECT_TRUE(std::isnan(out[6]));
  EXPECT_EQ(out[7], 1.0f);
}

TEST_P(EveryTarget, Exp2OfFinite) {
  const auto exact = [](long double x) { return std::exp2(x); };
  EXPECT_LT(worst(kExp2OfFinite, range(-126.0f, 127.4f), exact), 2e-7);
  EXPECT_LT(worst(kExp2OfFinite, range(-1.0f, 0.0f), exact), 2e-7);
  const std::vector<float> out =
      apply(kExp2OfFinite, {0.0f, -1.0f, 129.0f, 3e38f, -150.0f, -3e38f, -1e6f, NAN, 1e-45f});
  const std::vector<float> want = {1.0f, 0.5f, kInf, kInf, 0.0f, 0.0f, 0.0f};
  EXPECT_EQ(std::vector<float>(out.begin(), out.begin() + 7), want);
  EXPECT_TRUE(std::isnan(out[7]));
  EXPECT_EQ(out[8], 1.0f);
}

TEST_P(EveryTarget, Exp2OfAny) {
  EXPECT_LT(worst(kExp2OfAny, range(-126.0f, 127.4f), [](long double x) { return std::exp2(x); }), 2e-7);
  const std::vector<float> out = apply(kExp2OfAny, {0.0f, -1.0f, 129.0f, kInf, -150.0f, -kInf, -3e38f, NAN, 1e-45f});
  const std::vector<float> want = {1.0f, 0.5f, kInf, kInf, 0.0f, 0.0f, 0.0f};
  EXPECT_EQ(std::vector<float>(out.begin(), out.begin() + 7), want);
  EXPECT_TRUE(std::isnan(out[7]));
  EXPECT_EQ(out[8], 1.0f);
}

TEST_P(EveryTarget, Log1p) {
  EXPECT_LT(worst(kLog1p, range(0.0f, 1.0f), [](long double x) { return std::log1p(x); }), 2e-7);
}

TEST_P(EveryTarget, Softplus) {
  const auto exact = [](long double x) -> long double {
    return std::max(x, 0.0L) + std::log1p(std::exp(-std::abs(x)));
  };
  EXPECT_LT(worst(kSoftplus, range(-103.0f, 120.0f), exact), 3e-7);
  const std::vector<float> out = apply(kSoftplus, {kInf, -kInf, 3e38f, -3e38f, 25.0f, NAN});
  EXPECT_EQ(out[0], kInf);
  EXPECT_EQ(out[1], 0.0f);
  EXPECT_EQ(out[2], 3e38f);
  EXPECT_EQ(out[3], 0.0f);
  EXPECT_EQ(out[4], 25.0f);
  EXPECT_TRUE(std::isnan(out[5]));
}

TEST_P(EveryTarget, SigmoidAndSilu) {
  const auto sigmoid = [](long double x) -> long double { return 1.0L / (1.0L + std::exp(-x)); };
  const auto silu = [](long double x) -> long double { return x / (1.0L + std::exp(-x)); };
  EXPECT_LT(worst(kSigmoid, range(-87.0f, 120.0f), sigmoid), 3e-7);
  EXPECT_LT(worst(kSilu, range(-87.0f, 120.0f), silu), 3e-7);
  const std::vector<float> out = apply(kSilu, {kInf, -120.0f, -1e30f, 0.0f, NAN});
  EXPECT_EQ(out[0], kInf);
  EXPECT_EQ(out[1], 0.0f);
  EXPECT_EQ(out[2], 0.0f);
  EXPECT_EQ(out[3], 0.0f);
  EXPECT_TRUE(std::isnan(out[4]));
}

// bfloat16 by the definition: the nearer of the two neighbours, the even one in the middle.
float nearest_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint32_t low = bits & 0xFFFFu;
  const bool up = low > 0x8000u || (low == 0x8000u && (bits & 0x10000u) != 0);
  bits = (bits & 0xFFFF0000u) + (up ? 0x10000u : 0u);
  std::memcpy(&x, &bits, 4);
  return x;
}

TEST_P(EveryTarget, SixteenBitTypesRoundToNearestEven) {
  std::vector<float> in = {0.0f, -0.0f, 1.0f, 1.00390625f, 1.01171875f, 3.38953139e38f, 3.4e38f, kInf, -kInf, 1e-40f};
  std::mt19937 random(3);
  for (int i = 0; i < 100003; ++i) {
    const uint32_t bits = random() & ((i % 3 == 0) ? 0xFFFF8000u : 0xFFFFFFFFu);  // with many exact middles
    float x;
    std::memcpy(&x, &bits, 4);
    if (!std::isnan(x)) {
      in.push_back(x);
    }
  }
  std::vector<float> out;
  HWY_DYNAMIC_DISPATCH(round_through_bfloat16)(in, out);
  for (size_t i = 0; i < in.size(); ++i) {
    ASSERT_EQ(out[i], nearest_bfloat16(in[i])) << in[i];
  }

  in = {0.0f, 65504.0f, 65519.0f, 65520.0f, 1e30f, -1e30f, kInf, 5.9604645e-8f, 2.98e-8f, 2.9802323e-8f, 6.1e-5f};
  std::uniform_int_distribution<int> steps(0, 1 << 13);
  for (int i = 0; i < 100003; ++i) {
    // A multiple of a quarter of a step of float16, normal and denormal.
    const int exponent = static_cast<int>(random() % 42) - 26;
    in.push_back(std::ldexp(1.0f + static_cast<float>(steps(random)) / 8192.0f, exponent));
  }
  HWY_DYNAMIC_DISPATCH(round_through_float16)(in, out);
  for (size_t i = 0; i < in.size(); ++i) {
    const double step = std::ldexp(1.0, std::max(std::ilogb(in[i] == 0.0f ? 1.0f : in[i]), -14) - 10);
    const double want = std::isinf(in[i]) ? in[i] : std::nearbyint(in[i] / step) * step;
    ASSERT_EQ(out[i], std::abs(want) > 65504.0 ? std::copysign(kInf, in[i]) : static_cast<float>(want)) << in[i];
  }

  HWY_DYNAMIC_DISPATCH(round_through_bfloat16)({NAN, -NAN}, out);
  EXPECT_TRUE(std::isnan(out[0]) && std::isnan(out[1]));
  HWY_DYNAMIC_DISPATCH(round_through_float16)({NAN, -NAN}, out);
  EXPECT_TRUE(std::isnan(out[0]) && std::isnan(out[1]));
}

TEST_P(EveryTarget, Transpose) {
  for (const int64_t rows : {1, 3, 4, 7, 32}) {
    for (const int64_t columns : {1, 4, 5, 16, 18}) {
      const int64_t in_stride = columns + 2;
      const int64_t out_stride = rows + 3;
      std::vector<float> in(static_cast<size_t>(rows * in_stride - 2));
      std::vector<float> out(static_cast<size_t>(columns * out_stride), -1.0f);
      for (size_t i = 0; i < in.size(); ++i) {
        in[i] = static_cast<float>(i);
      }
      HWY_DYNAMIC_DISPATCH(turn)(in.data(), in_stride, rows, columns, out.data(), out_stride);
      for (int64_t j = 0; j < columns; ++j) {
        for (int64_t i = 0; i < out_stride; ++i) {
          const float want = i < rows ? static_cast<float>(i * in_stride + j) : -1.0f;
          ASSERT_EQ(out[static_cast<size_t>(j * out_stride + i)], want) << rows << "x" << columns;
        }
      }
    }
  }
}

}  // namespace
}  // namespace mamba::ops
#endif
