#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "mamba/base/threads.h"
#include "mamba/ops/causal_conv1d/causal_conv1d.h"
#include "mamba/ops/causal_conv1d/reference.h"
#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/cpu/test_golden.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::GoldenCases;
using testing::inside_wider;
using testing::normal;
using testing::same_bits;
using testing::worst_difference;

struct Case {
  int batch, length, channels, taps;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "B" << c.batch << " L" << c.length << " D" << c.channels << " K" << c.taps;
}

const std::vector<std::string> kNames = {"x", "weight", "bias", "initial_state"};

struct Problem {
  CausalConv1dInputs in;
  mx::array gy;
  mx::array gstate;
};

mx::array* find(CausalConv1dInputs& in, const std::string& name) {
  const auto optional = [](std::optional<mx::array>& a) { return a ? &*a : nullptr; };
  if (name == "x") return &in.x;
  if (name == "weight") return &in.weight;
  return name == "bias" ? optional(in.bias) : optional(in.initial_state);
}

std::vector<std::string> names_in(CausalConv1dInputs in) {
  std::vector<std::string> names;
  for (const std::string& name : kNames) {
    if (find(in, name) != nullptr) {
      names.push_back(name);
    }
  }
  return names;
}

using Conv = std::function<CausalConv1dOutputs(const CausalConv1dInputs&)>;

CausalConv1dOutputs kernel(const CausalConv1dInputs& in) {
  return causal_conv1d(in, mx::Device::cpu);
}
CausalConv1dOutputs reference(const CausalConv1dInputs& in) {
  return causal_conv1d_reference(in, mx::Device::cpu);
}

// Gradients of sum(y * gy) + sum(state * gstate), in the order of names_in.
std::vector<mx::array> gradients(const Problem& problem, const Conv& conv) {
  const std::vector<std::string> names = names_in(problem.in);
  std::vector<mx::array> primals;
  CausalConv1dInputs copy = problem.in;
  for (const std::string& name : names) {
    primals.push_back(*find(copy, name));
  }
  const auto outputs = [&](const std::vector<mx::array>& arrays) -> std::vector<mx::array> {
    CausalConv1dInputs in = problem.in;
    for (size_t i = 0; i < names.size(); ++i) {
      *find(in, names[i]) = arrays[i];
    }
    const CausalConv1dOutputs out = conv(in);
    return {out.y, out.state};
  };
  std::vector<mx::array> grads = mx::vjp(outputs, primals, {problem.gy, problem.gstate}).second;
  mx::eval(grads);
  return grads;
}

Problem in_float64(Problem problem) {
  const auto wide = [](mx::array& a) { a = mx::astype(a, mx::float64, mx::Device::cpu); };
  for (const std::string& name : names_in(problem.in)) {
    wide(*find(problem.in, name));
  }
  wide(problem.gy);
  wide(problem.gstate);
  return problem;
}

Problem make_problem(const Case& c, mx::Dtype dtype = mx::float32) {
  return {{.x = normal({c.batch, c.length, c.channels}, 11, 1.0f, 0.0f, dtype),
           .weight = normal({c.channels, c.taps}, 12),
           .bias = normal({c.channels}, 13),
           .initial_state = normal({c.batch, c.taps - 1, c.channels}, 14, 1.0f, 0.0f, dtype)},
          normal({c.batch, c.length, c.channels}, 15, 1.0f, 0.0f, dtype),
          normal({c.batch, c.taps - 1, c.channels}, 16, 1.0f, 0.0f, dtype)};
}

// Each gradient's largest error against its own size.
void expect_gradients(const Problem& problem, const std::vector<mx::array>& got, const std::vector<mx::array>& want,
                      double tolerance) {
  const std::vector<std::string> names = names_in(problem.in);
  CausalConv1dInputs in = problem.in;
  ASSERT_EQ(got.size(), names.size());
  for (size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ(got[i].dtype(), find(in, names[i])->dtype()) << names[i];
    const mx::array magnitude = mx::astype(want[i], mx::float32);
    EXPECT_LT(worst_difference(got[i], want[i], magnitude), tolerance) << names[i];
  }
}

void expect_like_the_reference(const Problem& problem) {
  const mx::Dtype dtype = problem.in.x.dtype();
  const double tolerance = 1e-5 + (dtype == mx::bfloat16 ? 0x1p-8 : dtype == mx::float16 ? 0x1p-11 : 0.0);
  expect_gradients(problem, gradients(problem, kernel), gradients(in_float64(problem), reference), tolerance);
}

const std::vector<Case> kCases = {{1, 1, 1, 1},   {1, 0, 5, 4},     {2, 7, 3, 4},   {1, 31, 65, 2},
                                  {2, 32, 64, 3}, {3, 65, 40, 4},   {1, 2, 97, 4},  {1, 63, 16, 1},
                                  {2, 5, 17, 11}, {1, 100, 130, 5}, {2, 90, 7, 50}, {1, 70, 1600, 3}};

class CausalConv1dGradients : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Shapes, CausalConv1dGradients, ::testing::ValuesIn(kCases));

TEST_P(CausalConv1dGradients, AgreeWithTheReferenceInFloat64) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    expect_like_the_reference(make_problem(GetParam(), dtype));
  }
}

TEST_P(CausalConv1dGradients, OptionalInputsMayBeAbsent) {
  Problem problem = make_problem(GetParam());
  problem.in.bias = std::nullopt;
  expect_like_the_reference(problem);
  problem.in.silu = false;
  expect_like_the_reference(problem);
  problem.in.initial_state = std::nullopt;
  expect_like_the_reference(problem);
}

TEST_P(CausalConv1dGradients, DoNotDependOnThreadsOrOnSlices) {
  const Problem problem = make_problem(GetParam());
  set_num_threads(1);
  const std::vector<mx::array> one = gradients(problem, kernel);
  set_num_threads(5);
  Problem slices = problem;
  slices.in.x = inside_wider(problem.in.x, 3, 5);
  slices.gy = inside_wider(problem.gy, 1, 2);
  const std::vector<mx::array> five = gradients(slices, kernel);
  set_num_threads(0);
  ASSERT_EQ(one.size(), five.size());
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_TRUE(same_bits(one[i], five[i])) << kNames[i];
  }
}

TEST(CausalConv1dGradient, SpansAndResets) {
  const int length = 80;
  for (const int taps : {1, 2, 4, 9}) {
    Problem problem = make_problem({7, length, 37, taps});
    const std::vector<int> spans = {40, 80, 0, 71, 5, 70, 64, 79, 50, 50, -3, 1000, 30, 32};
    problem.in.spans = mx::array(spans.begin(), {7, 2}, mx::int32);
    expect_like_the_reference(problem);
    std::vector<uint8_t> resets(7 * length, 0);
    for (const int at : {0, 40, 41, 44, 79, 80 + 63, 80 + 68, 80 + 70, 240 + 64, 240 + 78, 320 + 50, 400, 480 + 31}) {
      resets[static_cast<size_t>(at)] = 1;
    }
    problem.in.resets = mx::array(resets.begin(), {7, length}, mx::uint8);
    expect_like_the_reference(problem);
    problem.in.spans = std::nullopt;
    expect_like_the_reference(problem);
  }
}

std::vector<double> doubles(const mx::array& a) {
  mx::array dense = mx::contiguous(a);
  dense.eval();
  return {dense.data<float>(), dense.data<float>() + dense.size()};
}

TEST(CausalConv1dGradient, FiniteDifferencesInDoubleAgree) {
  const auto [batch, length, channels, taps] = Case{2, 6, 3, 4};
  Problem problem = make_problem({batch, length, channels, taps});
  const std::vector<mx::array> grads = gradients(problem, kernel);
  const std::vector<double> gy = doubles(problem.gy);
  const std::vector<double> gstate = doubles(problem.gstate);
  std::vector<std::vector<double>> values;  // in the order of kNames
  for (const std::string& name : kNames) {
    values.push_back(doubles(*find(problem.in, name)));
  }
  const auto loss = [&, batch = batch, length = length, channels = channels,
                     taps = taps](const std::vector<std::vector<double>>& v) {
    double sum = 0.0;
    for (int b = 0; b < batch; ++b) {
      for (int d = 0; d < channels; ++d) {
        const auto input = [&](int t) {
          return t < 0 ? v[3][(b * (taps - 1) + taps - 1 + t) * channels + d] : v[0][(b * length + t) * channels + d];
        };
        for (int t = 0; t < length; ++t) {
          double y = v[2][d];
          for (int k = 0; k < taps; ++k) {
            y += v[1][d * taps + k] * input(t - taps + 1 + k);
          }
          sum += gy[(b * length + t) * channels + d] * y / (1.0 + std::exp(-y));
        }
        for (int i = 0; i < taps - 1; ++i) {
          sum += gstate[(b * (taps - 1) + i) * channels + d] * input(length - taps + 1 + i);
        }
      }
    }
    return sum;
  };
  for (size_t i = 0; i < kNames.size(); ++i) {
    const std::vector<double> got = doubles(grads[i]);
    for (size_t j = 0; j < got.size(); ++j) {
      const double h = 1e-5;
      std::vector<std::vector<double>> moved = values;
      moved[i][j] = values[i][j] + h;
      const double above = loss(moved);
      moved[i][j] = values[i][j] - h;
      const double want = (above - loss(moved)) / (2 * h);
      EXPECT_NEAR(got[j], want, 1e-5 * (1 + std::abs(want))) << kNames[i] << " " << j;
    }
  }
}

TEST(CausalConv1dGradient, GoldenCasesFromPyTorch) {
  const GoldenCases golden("causal_conv1d");
  for (const std::string& name : golden.names()) {
    SCOPED_TRACE(name);
    const Problem problem = {{.x = golden.get(name, "in", "x"),
                              .weight = golden.get(name, "in", "weight"),
                              .bias = golden.find(name, "in", "bias"),
                              .initial_state = golden.find(name, "in", "initial_state"),
                              .spans = golden.find(name, "in", "spans"),
                              .resets = golden.find(name, "in", "resets"),
                              .silu = !golden.find(name, "in", "silu")},
                             golden.get(name, "cotangent", "y"),
                             golden.get(name, "cotangent", "state")};
    std::vector<mx::array> want;
    for (const std::string& argument : names_in(problem.in)) {
      want.push_back(golden.get(name, "grad", argument));
    }
    for (const Conv& conv : {Conv(kernel), Conv(reference)}) {
      const CausalConv1dOutputs out = conv(problem.in);
      EXPECT_LT(worst_difference(out.y, golden.get(name, "out", "y"), out.y), 2e-6);
      EXPECT_LT(worst_difference(out.state, golden.get(name, "out", "state"), out.state), 2e-6);
      expect_gradients(problem, gradients(problem, conv), want, 1e-5);
    }
  }
}

TEST(CausalConv1dGradient, HasNoSecondDerivative) {
  const Problem problem = make_problem({1, 4, 3, 2});
  const auto slope = [&](const mx::array& x) {
    const auto value = [&](const mx::array& v) {
      CausalConv1dInputs in = problem.in;
      in.x = v;
      return mx::sum(kernel(in).y);
    };
    return mx::sum(mx::grad(value)(x));
  };
  EXPECT_EQ(message_of([&] { mx::eval(mx::grad(slope)(problem.in.x)); }),
            "[causal_conv1d] has no second derivative: its gradient cannot be differentiated again");
}

}  // namespace
}  // namespace mamba::ops
