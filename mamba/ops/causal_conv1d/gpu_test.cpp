// The GPU kernels as host C++ against the reference: values and gradients.
#include "mamba/ops/causal_conv1d/gpu.h"

#include <vector>

#include "mamba/ops/causal_conv1d/gpu_host.h"
#include "mamba/ops/causal_conv1d/reference.h"
#include "mamba/ops/gpu/test_compare.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::expect_close;
using testing::in_float64;
using testing::inside_wider;
using testing::normal;
using testing::positions;
using testing::values_and_gradients;

struct Case {
  int batch, length, channels, taps;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "B" << c.batch << " L" << c.length << " D" << c.channels << " K" << c.taps;
}

CausalConv1dInputs make_inputs(const Case& c, mx::Dtype dtype = mx::float32) {
  conv::use_host_kernels();
  return {.x = normal({c.batch, c.length, c.channels}, 1, 1.0f, 0.0f, dtype),
          .weight = normal({c.channels, c.taps}, 2, 0.5f),
          .bias = normal({c.channels}, 3, 0.5f),
          .initial_state = normal({c.batch, c.taps - 1, c.channels}, 4, 1.0f, 0.0f, dtype)};
}

mx::Stream cpu() {
  return mx::default_stream(mx::Device::cpu);
}

void expect_like_the_reference(const CausalConv1dInputs& in, double tolerance = 1e-5) {
  std::vector<mx::array> primals = {in.x, in.weight};
  if (in.bias) {
    primals.push_back(*in.bias);
  }
  if (in.initial_state) {
    primals.push_back(*in.initial_state);
  }
  const auto with = [&](const std::vector<mx::array>& values) {
    CausalConv1dInputs out = in;
    size_t i = 2;
    out.x = values[0];
    out.weight = values[1];
    if (in.bias) {
      out.bias = values[i++];
    }
    if (in.initial_state) {
      out.initial_state = values[i];
    }
    return out;
  };
  const std::vector<mx::array> cotangents = {
      normal(in.x.shape(), 5, 1.0f, 0.0f, in.x.dtype()),
      normal({in.x.shape(0), in.weight.shape(1) - 1, in.x.shape(2)}, 6, 1.0f, 0.0f, in.x.dtype())};
  const auto kernel = [&](const std::vector<mx::array>& values) -> std::vector<mx::array> {
    const CausalConv1dOutputs out = conv::gpu_conv(with(values), cpu());
    return {out.y, out.state};
  };
  const auto reference = [&](const std::vector<mx::array>& values) -> std::vector<mx::array> {
    const CausalConv1dOutputs out = causal_conv1d_reference(with(values), cpu());
    return {out.y, out.state};
  };
  expect_close(values_and_gradients(kernel, primals, cotangents),
               values_and_gradients(reference, in_float64(primals), in_float64(cotangents)), tolerance);
}

class CausalConv1dGpu : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Shapes, CausalConv1dGpu,
                         ::testing::ValuesIn(std::vector<Case>{{1, 1, 1, 4},
                                                               {2, 15, 3, 4},
                                                               {1, 16, 130, 2},
                                                               {2, 17, 5, 5},
                                                               {1, 300, 7, 4},
                                                               {3, 2, 4, 4},
                                                               {1, 9, 2, 1},
                                                               {1, 0, 4, 3}}));

TEST_P(CausalConv1dGpu, AgreesWithTheReferenceInFloat64) {
  expect_like_the_reference(make_inputs(GetParam()));
}

TEST(CausalConv1dGpu, OptionalInputsMayBeAbsent) {
  for (int absent = 0; absent < 3; ++absent) {
    CausalConv1dInputs in = make_inputs({2, 21, 5, 4});
    if (absent == 0) in.bias = std::nullopt;
    if (absent == 1) in.initial_state = std::nullopt;
    if (absent == 2) in.silu = false;
    SCOPED_TRACE(absent);
    expect_like_the_reference(in);
  }
}

TEST(CausalConv1dGpu, SpansAndResets) {
  CausalConv1dInputs in = make_inputs({7, 40, 3, 4});
  const std::vector<int> spans = {0, 40, 10, 40, 0, 17, 15, 33, 20, 20, -5, 90, 12, 14};
  in.spans = mx::array(spans.begin(), {7, 2}, mx::int32);
  expect_like_the_reference(in);
  std::vector<uint8_t> resets(7 * 40, 0);
  for (const int at : {0, 5, 6, 38, 39, 40 + 10, 40 + 12, 80 + 15, 80 + 16, 120 + 32, 240 + 12, 240 + 13}) {
    resets[static_cast<size_t>(at)] = 1;
  }
  in.resets = mx::array(resets.begin(), {7, 40}, mx::uint8);
  expect_like_the_reference(in);
  in.spans = std::nullopt;
  expect_like_the_reference(in);
}

TEST(CausalConv1dGpu, NarrowDtypesAndSlices) {
  for (const mx::Dtype dtype : {mx::bfloat16, mx::float16}) {
    for (const int channels : {6, 7, 1, 258}) {  // a thread's pairs, and one without a second channel
      CausalConv1dInputs in = make_inputs({2, 19, channels, 4}, dtype);
      const double step = dtype == mx::bfloat16 ? 0x1p-8 : 0x1p-11;
      expect_like_the_reference(in, step + 1e-5);
      in.x = inside_wider(in.x, 2, 7);
      expect_like_the_reference(in, step + 1e-5);
      in.weight = mx::astype(in.weight, dtype);
      in.bias = mx::astype(*in.bias, dtype);
      in.spans = mx::array({3, 18, 0, 2}, {2, 2}, mx::int32);
      expect_like_the_reference(in, step + 1e-5);
    }
  }
}

TEST(CausalConv1dGpu, StepsEqualTheWhole) {
  for (const int taps : {1, 4}) {
    CausalConv1dInputs in = make_inputs({2, 5, 7, taps});
    const CausalConv1dOutputs whole = conv::gpu_conv(in, cpu());
    CausalConv1dInputs one = in;
    for (int t = 0; t < 5; ++t) {
      one.x = mx::squeeze(positions(in.x, t, t + 1), 1);
      const CausalConv1dOutputs out = conv::gpu_step(one, cpu());
      EXPECT_LT(testing::worst_difference(out.y, mx::squeeze(positions(whole.y, t, t + 1), 1), out.y), 1e-6);
      one.initial_state = out.state;
    }
    EXPECT_TRUE(testing::same_bits(*one.initial_state, whole.state));
  }
}

}  // namespace
}  // namespace mamba::ops
