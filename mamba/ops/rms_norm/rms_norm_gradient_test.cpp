#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/cpu/test_golden.h"
#include "mamba/ops/rms_norm/reference.h"
#include "mamba/ops/rms_norm/rms_norm.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::GoldenCases;
using testing::inside_wider;
using testing::normal;
using testing::same_bits;
using testing::worst_difference;

constexpr float kEps = 1e-5f;
const std::vector<mx::Shape> kShapes = {{1},    {7},       {1, 1},     {3, 33},          {2, 5, 64}, {2, 0, 8},
                                        {0, 8}, {70, 130}, {2, 3, 97}, {1, 2, 1, 2, 31}, {1100, 9},  {17, 768}};

using Outputs = std::function<std::vector<mx::array>(const std::vector<mx::array>&)>;

std::vector<mx::array> gradients(const Outputs& outputs, const std::vector<mx::array>& primals,
                                 const std::vector<mx::array>& cotangents) {
  std::vector<mx::array> grads = mx::vjp(outputs, primals, cotangents).second;
  mx::eval(grads);
  return grads;
}

std::vector<mx::array> in_float64(std::vector<mx::array> arrays) {
  for (mx::array& a : arrays) {
    a = mx::astype(a, mx::float64, mx::Device::cpu);
  }
  return arrays;
}

double tolerance(mx::Dtype dtype) {
  return 1e-5 + (dtype == mx::bfloat16 ? 0x1p-8 : dtype == mx::float16 ? 0x1p-11 : 0.0);
}

TEST(RmsNormGradient, AgreesWithTheReferenceInFloat64) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    for (const mx::Shape& shape : kShapes) {
      const std::vector<mx::array> primals = {normal(shape, 1, 3.0f, 0.5f, dtype), normal({shape.back()}, 2)};
      const mx::array gy = normal(shape, 4, 1.0f, 0.0f, dtype);
      const auto got = gradients([](const auto& a) { return std::vector{rms_norm(a[0], a[1], kEps, mx::Device::cpu)}; },
                                 primals, {gy});
      const auto want =
          gradients([](const auto& a) { return std::vector{rms_norm_reference(a[0], a[1], kEps, mx::Device::cpu)}; },
                    in_float64(primals), in_float64({gy}));
      EXPECT_EQ(got[0].dtype(), dtype);
      EXPECT_EQ(got[1].dtype(), mx::float32);
      EXPECT_LT(worst_difference(got[0], want[0], want[0]), tolerance(dtype));
      EXPECT_LT(worst_difference(got[1], want[1], want[1]), 1e-5);
    }
  }
}

TEST(RmsNormGradient, WithTheResidual) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    for (const mx::Dtype in : {mx::float32, dtype}) {
      for (const mx::Shape& shape : kShapes) {
        const mx::Dtype out = mx::float32;
        const std::vector<mx::array> primals = {normal(shape, 1, 3.0f, 0.5f, dtype),
                                                normal({shape.back()}, 2, 1.0f, 0.0f, dtype),
                                                normal(shape, 3, 2.0f, 0.0f, in)};
        const std::vector<mx::array> cotangents = {normal(shape, 4, 1.0f, 0.0f, dtype), normal(shape, 5)};
        const auto kernel = [&](const std::vector<mx::array>& a) -> std::vector<mx::array> {
          const auto [y, sum] = rms_norm_add(a[0], a[2], a[1], kEps, out, mx::Device::cpu);
          return {y, sum};
        };
        const auto reference = [&](const std::vector<mx::array>& a) -> std::vector<mx::array> {
          const auto [y, sum] = rms_norm_add_reference(a[0], a[2], a[1], kEps, std::nullopt, mx::Device::cpu);
          return {y, sum};
        };
        const auto got = gradients(kernel, primals, cotangents);
        const auto want = gradients(reference, in_float64(primals), in_float64(cotangents));
        for (size_t i = 0; i < 3; ++i) {
          EXPECT_EQ(got[i].dtype(), primals[i].dtype());
          EXPECT_LT(worst_difference(got[i], want[i], want[i]), tolerance(got[i].dtype())) << i;
        }
        const auto first = [&](const std::vector<mx::array>& a) -> std::vector<mx::array> {
          const auto [y, sum] = rms_norm_add(a[0], std::nullopt, a[1], kEps, out, mx::Device::cpu);
          return {y, sum};
        };
        const auto first_reference = [&](const std::vector<mx::array>& a) -> std::vector<mx::array> {
          return {rms_norm_reference(a[0], a[1], kEps, mx::Device::cpu), a[0]};
        };
        const std::vector<mx::array> two = {primals[0], primals[1]};
        const auto got_first = gradients(first, two, cotangents);
        const auto want_first = gradients(first_reference, in_float64(two), in_float64(cotangents));
        for (size_t i = 0; i < 2; ++i) {
          EXPECT_LT(worst_difference(got_first[i], want_first[i], want_first[i]), tolerance(dtype)) << i;
        }
      }
    }
  }
}

TEST(RmsNormGradient, DoesNotDependOnThreadsOrOnSlices) {
  for (const mx::Shape& shape : {mx::Shape{300, 65}, mx::Shape{3, 700, 20}}) {
    const mx::array x = normal(shape, 1);
    const mx::array weight = normal({shape.back()}, 2);
    const mx::array gy = normal(shape, 3);
    const Outputs norm = [](const auto& a) { return std::vector{rms_norm(a[0], a[1], kEps, mx::Device::cpu)}; };
    set_num_threads(1);
    const auto one = gradients(norm, {x, weight}, {gy});
    set_num_threads(5);
    const auto five = gradients(norm, {inside_wider(x, 1, 4), weight}, {inside_wider(gy, 0, 3)});
    set_num_threads(0);
    EXPECT_TRUE(same_bits(one[0], five[0]));
    EXPECT_TRUE(same_bits(one[1], five[1]));
  }
}

std::vector<double> doubles(const mx::array& a) {
  mx::array dense = mx::contiguous(a);
  dense.eval();
  return {dense.data<float>(), dense.data<float>() + dense.size()};
}

TEST(RmsNormGradient, FiniteDifferencesInDoubleAgree) {
  const int rows = 3;
  const int D = 5;
  const std::vector<mx::array> primals = {normal({rows, D}, 1), normal({D}, 2), normal({rows, D}, 3)};
  const std::vector<mx::array> cotangents = {normal({rows, D}, 4), normal({rows, D}, 5)};
  const auto grads = gradients(
      [&](const std::vector<mx::array>& a) -> std::vector<mx::array> {
        const auto [y, sum] = rms_norm_add(a[0], a[2], a[1], kEps, std::nullopt, mx::Device::cpu);
        return {y, sum};
      },
      primals, cotangents);
  const std::vector<double> gy = doubles(cotangents[0]);
  const std::vector<double> gsum = doubles(cotangents[1]);
  std::vector<std::vector<double>> values;
  for (const mx::array& a : primals) {
    values.push_back(doubles(a));
  }
  const auto loss = [&](const std::vector<std::vector<double>>& v) {
    double total = 0.0;
    for (int i = 0; i < rows; ++i) {
      double squares = 0.0;
      for (int d = 0; d < D; ++d) {
        const double s = v[0][i * D + d] + v[2][i * D + d];
        squares += s * s;
      }
      for (int d = 0; d < D; ++d) {
        const double s = v[0][i * D + d] + v[2][i * D + d];
        total += gy[i * D + d] * s / std::sqrt(squares / D + kEps) * v[1][d] + gsum[i * D + d] * s;
      }
    }
    return total;
  };
  for (size_t i = 0; i < values.size(); ++i) {
    const std::vector<double> got = doubles(grads[i]);
    for (size_t j = 0; j < got.size(); ++j) {
      const double h = 1e-5;
      std::vector<std::vector<double>> moved = values;
      moved[i][j] = values[i][j] + h;
      const double above = loss(moved);
      moved[i][j] = values[i][j] - h;
      const double want = (above - loss(moved)) / (2 * h);
      EXPECT_NEAR(got[j], want, 1e-5 * (1 + std::abs(want))) << i << " " << j;
    }
  }
}

TEST(RmsNormGradient, GoldenCasesFromPyTorch) {
  const GoldenCases golden("rms_norm");
  for (const std::string& name : golden.names()) {
    SCOPED_TRACE(name);
    const float eps = golden.get(name, "in", "eps").item<float>();
    const auto residual = golden.find(name, "in", "residual");
    std::vector<mx::array> primals = {golden.get(name, "in", "x"), golden.get(name, "in", "weight")};
    std::vector<mx::array> cotangents = {golden.get(name, "cotangent", "y")};
    std::vector<mx::array> want_out = {golden.get(name, "out", "y")};
    std::vector<mx::array> want = {golden.get(name, "grad", "x"), golden.get(name, "grad", "weight")};
    if (residual) {
      primals.push_back(*residual);
      cotangents.push_back(golden.get(name, "cotangent", "sum"));
      want_out.push_back(golden.get(name, "out", "sum"));
      want.push_back(golden.get(name, "grad", "residual"));
    }
    const auto run = [&](bool reference) -> Outputs {
      return [&, reference](const std::vector<mx::array>& a) -> std::vector<mx::array> {
        if (!residual) {
          return {reference ? rms_norm_reference(a[0], a[1], eps, mx::Device::cpu)
                            : rms_norm(a[0], a[1], eps, mx::Device::cpu)};
        }
        const auto [y, sum] = reference ? rms_norm_add_reference(a[0], a[2], a[1], eps, std::nullopt, mx::Device::cpu)
                                        : rms_norm_add(a[0], a[2], a[1], eps, std::nullopt, mx::Device::cpu);
        return {y, sum};
      };
    };
    for (const bool reference : {false, true}) {
      const std::vector<mx::array> out = run(reference)(primals);
      for (size_t i = 0; i < out.size(); ++i) {
        EXPECT_LT(worst_difference(out[i], want_out[i], want_out[i]), 1e-6);
      }
      const auto grads = gradients(run(reference), primals, cotangents);
      for (size_t i = 0; i < grads.size(); ++i) {
        EXPECT_LT(worst_difference(grads[i], want[i], want[i]), 5e-6) << i;
      }
    }
  }
}

TEST(RmsNormGradient, HasNoSecondDerivative) {
  const mx::array weight = normal({8}, 2);
  const auto slope = [&](const mx::array& x) {
    return mx::sum(
        mx::grad([&](const mx::array& v) { return mx::sum(rms_norm(v, weight, kEps, mx::Device::cpu)); })(x));
  };
  EXPECT_EQ(message_of([&] {
              mx::eval(mx::grad(slope)(normal({2, 8}, 1)));
            }),
            "[rms_norm] has no second derivative: its gradient cannot be differentiated again");
}

}  // namespace
}  // namespace mamba::ops
