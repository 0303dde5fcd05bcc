#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/cpu/test_golden.h"
#include "mamba/ops/selective_scan/blelloch.h"
#include "mamba/ops/selective_scan/reference.h"
#include "mamba/ops/selective_scan/selective_scan.h"
#include "mamba/ops/selective_scan/test_problems.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::GoldenCases;
using testing::in_float64;
using testing::inside_wider;
using testing::named_arrays;
using testing::normal;
using testing::positions;
using testing::same_bits;
using testing::worst_difference;

using Case = testing::ScanCase;
using Problem = testing::ScanProblem;
using Scan = testing::ScanFn;

SelectiveScanOutputs kernel(const SelectiveScanInputs& in) {
  return selective_scan(in, mx::Device::cpu);
}
SelectiveScanOutputs reference(const SelectiveScanInputs& in) {
  return selective_scan_reference(in, mx::Device::cpu);
}

SelectiveScanOutputs blelloch(const SelectiveScanInputs& in) {
  return selective_scan_blelloch(in, mx::Device::cpu);
}

// Gradients of sum(y * gy) + sum(state * gstate), in the order of named_arrays.
std::vector<mx::array> gradients(const Problem& problem, const Scan& scan) {
  const testing::ScanOfArrays f = testing::of_arrays(problem, scan);
  std::vector<mx::array> grads = mx::vjp(f.run, f.primals, {problem.gy, problem.gstate}).second;
  mx::eval(grads);
  return grads;
}

Problem make_problem(const Case& c, mx::Dtype dtype = mx::float32) {
  return testing::scan_problem(c, dtype, 5);
}

// Each gradient's largest error against its own size: the norm that issue and optimiser care about.
void expect_gradients(const Problem& problem, const std::vector<mx::array>& got, const std::vector<mx::array>& want,
                      double tolerance) {
  SelectiveScanInputs in = problem.in;
  const auto arrays = named_arrays(in);
  ASSERT_EQ(got.size(), arrays.size());
  for (size_t i = 0; i < arrays.size(); ++i) {
    const auto& [name, a] = arrays[i];
    EXPECT_EQ(got[i].dtype(), a->dtype()) << name;
    if (got[i].size() > 0) {
      const mx::array size = mx::sqrt(mx::mean(mx::square(mx::astype(want[i], mx::float32))));
      EXPECT_LT(worst_difference(got[i], want[i], mx::maximum(mx::abs(mx::astype(want[i], mx::float32)), size)),
                tolerance)
          << name;
    }
  }
}

double tolerance(mx::Dtype dtype) {
  return dtype == mx::bfloat16 ? 0x1p-8 + 1e-4 : dtype == mx::float16 ? 0x1p-11 + 1e-4 : 2e-5;
}

void expect_like_the_reference(const Problem& problem) {
  expect_gradients(problem, gradients(problem, kernel), gradients(in_float64(problem), reference),
                   tolerance(problem.in.u.dtype()));
}

const std::vector<Case> kCases = {{1, 1, 1, 1},    {1, 0, 5, 3},    {2, 7, 3, 16},   {1, 31, 33, 8},
                                  {2, 64, 32, 16}, {1, 65, 31, 3},  {3, 63, 40, 5},  {1, 129, 70, 16},
                                  {1, 190, 17, 9}, {2, 66, 49, 33}, {1, 70, 1300, 4}};

class SelectiveScanGradients : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Shapes, SelectiveScanGradients, ::testing::ValuesIn(kCases));

TEST_P(SelectiveScanGradients, AgreeWithTheReferenceInFloat64) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    expect_like_the_reference(make_problem(GetParam(), dtype));
  }
}

TEST_P(SelectiveScanGradients, AgreeWithBlellochsScanInFloat64) {
  const Problem problem = make_problem(GetParam());
  expect_gradients(problem, gradients(problem, kernel), gradients(in_float64(problem), blelloch),
                   tolerance(mx::float32));
}

TEST_P(SelectiveScanGradients, OptionalInputsMayBeAbsent) {
  for (int absent = 0; absent < 5; ++absent) {
    SCOPED_TRACE(absent);
    Problem problem = make_problem(GetParam());
    if (absent == 0) problem.in.D = std::nullopt;
    if (absent == 1) problem.in.z = std::nullopt;
    if (absent == 2) problem.in.delta_bias = std::nullopt;
    if (absent == 3) problem.in.initial_state = std::nullopt;
    if (absent == 4) {
      problem.in.delta_softplus = false;
      problem.in.delta = mx::abs(problem.in.delta);
      problem.in.delta_bias = mx::abs(*problem.in.delta_bias);
    }
    expect_like_the_reference(problem);
  }
}

TEST_P(SelectiveScanGradients, DoNotDependOnThreadsOrOnSlices) {
  const Problem problem = make_problem(GetParam());
  set_num_threads(1);
  const std::vector<mx::array> one = gradients(problem, kernel);
  set_num_threads(5);
  Problem slices = problem;
  slices.in.u = inside_wider(problem.in.u, 3, 5);
  slices.in.z = inside_wider(*problem.in.z, 0, 9);
  slices.in.B = inside_wider(problem.in.B, 7, 8);
  slices.gy = inside_wider(problem.gy, 1, 2);
  const std::vector<mx::array> five = gradients(slices, kernel);
  set_num_threads(0);
  ASSERT_EQ(one.size(), five.size());
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_TRUE(same_bits(one[i], five[i])) << "array " << i;
  }
}

TEST(SelectiveScanGradient, SpansAndResets) {
  const int length = 150;
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    Problem problem = make_problem({6, length, 37, 6}, dtype);
    const std::vector<int> spans = {40, 150, 0, 71, 5, 130, 64, 128, 50, 50, -3, 1000};
    problem.in.spans = mx::array(spans.begin(), {6, 2}, mx::int32);
    expect_like_the_reference(problem);
    std::vector<uint8_t> resets(6 * length, 0);
    for (const int at : {0, 40, 41, 64, 149, 150 + 63, 150 + 70, 150 + 71, 300 + 64, 450 + 127, 750 + 0, 750 + 128}) {
      resets[static_cast<size_t>(at)] = 1;
    }
    problem.in.resets = mx::array(resets.begin(), {6, length}, mx::uint8);
    expect_like_the_reference(problem);
    problem.in.spans = std::nullopt;
    expect_like_the_reference(problem);
  }
}

TEST(SelectiveScanGradient, PaddingIsNeverRead) {
  const int length = 80;
  Problem problem = make_problem({2, length, 20, 4});
  const std::vector<int> spans = {30, 80, 3, 70};
  problem.in.spans = mx::array(spans.begin(), {2, 2}, mx::int32);
  const std::vector<mx::array> want = gradients(problem, kernel);
  const mx::array t = mx::reshape(mx::arange(length), {1, length, 1});
  const mx::array begin = mx::expand_dims(mx::slice(*problem.in.spans, {0, 0}, {2, 1}), 2);
  const mx::array end = mx::expand_dims(mx::slice(*problem.in.spans, {0, 1}, {2, 2}), 2);
  const mx::array real = mx::logical_and(mx::greater_equal(t, begin), mx::less(t, end));
  for (mx::array* a : {&problem.in.u, &problem.in.delta, &problem.in.B, &problem.in.C, &*problem.in.z, &problem.gy}) {
    *a = mx::where(real, *a, mx::array(NAN));
    a->eval();
  }
  const std::vector<mx::array> got = gradients(problem, kernel);
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_TRUE(same_bits(got[i], want[i])) << "array " << i;
  }
}

// Training on windows that hand on the state is training on the whole, when gradients flow through the state.
TEST(SelectiveScanGradient, FlowThroughTheState) {
  const Problem problem = make_problem({2, 100, 21, 5});
  const Scan in_two = [](const SelectiveScanInputs& in) {
    const auto cut = [&](int from, int to) {
      SelectiveScanInputs part = in;
      for (mx::array* a : {&part.u, &part.delta, &part.B, &part.C, &*part.z}) {
        *a = positions(*a, from, to);
      }
      return part;
    };
    const SelectiveScanOutputs first = kernel(cut(0, 37));
    SelectiveScanInputs rest = cut(37, 100);
    rest.initial_state = first.state;
    const SelectiveScanOutputs second = kernel(rest);
    return SelectiveScanOutputs{mx::concatenate({first.y, second.y}, 1), second.state};
  };
  expect_gradients(problem, gradients(problem, in_two), gradients(problem, kernel), 2e-5);
}

TEST(SelectiveScanGradient, OfOneStep) {
  const Problem problem = make_problem({3, 1, 40, 16});
  const Scan step = [](const SelectiveScanInputs& in) {
    SelectiveScanInputs one = in;
    for (mx::array* a : {&one.u, &one.delta, &one.B, &one.C, &*one.z}) {
      *a = mx::squeeze(*a, 1);
    }
    SelectiveScanOutputs out = selective_scan_step(one, mx::Device::cpu);
    out.y = mx::expand_dims(out.y, 1);
    return out;
  };
  const std::vector<mx::array> got = gradients(problem, step);
  const std::vector<mx::array> want = gradients(problem, kernel);
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_TRUE(same_bits(got[i], want[i])) << "array " << i;
  }
}

// MLX's exp has float32's precision in float64 too, which differences do not forgive: so the scan once more, in double.
using Values = std::vector<std::vector<double>>;  // in the order of named_arrays

double loss_in_double(const Case& c, const Values& v, const std::vector<double>& gy,
                      const std::vector<double>& gstate) {
  const auto [batch, length, channels, states] = c;
  double loss = 0.0;
  for (int b = 0; b < batch; ++b) {
    for (int d = 0; d < channels; ++d) {
      std::vector<double> h(states);
      for (int n = 0; n < states; ++n) {
        h[n] = v[8][(b * channels + d) * states + n];
      }
      for (int t = 0; t < length; ++t) {
        const int at = (b * length + t) * channels + d;
        const double dt = std::log1p(std::exp(v[1][at] + v[7][d]));
        double y = v[5][d] * v[0][at];
        for (int n = 0; n < states; ++n) {
          const int row = (b * length + t) * states + n;
          h[n] = std::exp(dt * v[2][d * states + n]) * h[n] + dt * v[3][row] * v[0][at];
          y += v[4][row] * h[n];
        }
        loss += gy[at] * y * v[6][at] / (1.0 + std::exp(-v[6][at]));
      }
      for (int n = 0; n < states; ++n) {
        loss += gstate[(b * channels + d) * states + n] * h[n];
      }
    }
  }
  return loss;
}

std::vector<double> doubles(const mx::array& a) {
  mx::array dense = mx::contiguous(a);
  dense.eval();
  return {dense.data<float>(), dense.data<float>() + dense.size()};
}

TEST(SelectiveScanGradient, FiniteDifferencesInDoubleAgree) {
  const Case c = {2, 7, 3, 4};
  Problem problem = make_problem(c);
  const std::vector<mx::array> grads = gradients(problem, kernel);
  const std::vector<double> gy = doubles(problem.gy);
  const std::vector<double> gstate = doubles(problem.gstate);
  const auto arrays = named_arrays(problem.in);
  ASSERT_EQ(arrays.size(), 9u);  // all that loss_in_double takes
  Values values;
  for (const auto& [name, a] : arrays) {
    values.push_back(doubles(*a));
  }
  for (size_t i = 0; i < arrays.size(); ++i) {
    const std::vector<double> got = doubles(grads[i]);
    for (size_t j = 0; j < got.size(); ++j) {
      const double h = 1e-5;
      Values moved = values;
      moved[i][j] = values[i][j] + h;
      const double above = loss_in_double(c, moved, gy, gstate);
      moved[i][j] = values[i][j] - h;
      const double want = (above - loss_in_double(c, moved, gy, gstate)) / (2 * h);
      EXPECT_NEAR(got[j], want, 1e-5 * (1 + std::abs(want))) << arrays[i].first << " " << j;
    }
  }
}

TEST(SelectiveScanGradient, GoldenCasesFromPyTorch) {
  const GoldenCases golden("selective_scan");
  for (const std::string& name : golden.names()) {
    SCOPED_TRACE(name);
    const auto get = [&](const char* argument) { return golden.get(name, "in", argument); };
    const auto maybe = [&](const char* argument) { return golden.find(name, "in", argument); };
    Problem problem = {{.u = get("u"),
                        .delta = get("delta"),
                        .A = get("A"),
                        .B = get("B"),
                        .C = get("C"),
                        .D = maybe("D"),
                        .z = maybe("z"),
                        .delta_bias = maybe("delta_bias"),
                        .initial_state = maybe("initial_state"),
                        .spans = maybe("spans"),
                        .resets = maybe("resets"),
                        .delta_softplus = !maybe("softplus")},
                       golden.get(name, "cotangent", "y"),
                       golden.get(name, "cotangent", "state")};
    std::vector<mx::array> want;
    for (const auto& [argument, a] : named_arrays(problem.in)) {
      want.push_back(golden.get(name, "grad", argument));
    }
    for (const Scan& scan : {Scan(kernel), Scan(reference)}) {
      const SelectiveScanOutputs out = scan(problem.in);
      EXPECT_LT(worst_difference(out.y, golden.get(name, "out", "y"), out.y), 1e-5);
      EXPECT_LT(worst_difference(out.state, golden.get(name, "out", "state"), out.state), 1e-5);
      expect_gradients(problem, gradients(problem, scan), want, 2e-5);
    }
  }
}

TEST(SelectiveScanGradient, HasNoSecondDerivative) {
  const Problem problem = make_problem({1, 4, 3, 2});
  const auto slope = [&](const mx::array& u) {
    const auto value = [&](const mx::array& v) {
      SelectiveScanInputs in = problem.in;
      in.u = v;
      return mx::sum(kernel(in).y);
    };
    return mx::sum(mx::grad(value)(u));
  };
  EXPECT_EQ(message_of([&] { mx::eval(mx::grad(slope)(problem.in.u)); }),
            "[selective_scan] has no second derivative: its gradient cannot be differentiated again");
}

}  // namespace
}  // namespace mamba::ops
