#include "mamba/ops/causal_conv1d/causal_conv1d.h"

#include <gtest/gtest.h>

#include <vector>

#include "mamba/base/threads.h"
#include "mamba/ops/causal_conv1d/reference.h"
#include "mamba/ops/cpu/test_arrays.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::batch_row;
using testing::inside_wider;
using testing::normal;
using testing::positions;
using testing::same_bits;
using testing::worst_difference;

struct Case {
  int batch, length, channels, taps;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "B" << c.batch << " L" << c.length << " D" << c.channels << " K" << c.taps;
}

CausalConv1dInputs make_inputs(const Case& c, mx::Dtype dtype = mx::float32) {
  return {.x = normal({c.batch, c.length, c.channels}, 11, 1.0f, 0.0f, dtype),
          .weight = normal({c.channels, c.taps}, 12),
          .bias = normal({c.channels}, 13),
          .initial_state = normal({c.batch, c.taps - 1, c.channels}, 14, 1.0f, 0.0f, dtype)};
}

CausalConv1dInputs in_float64(CausalConv1dInputs in) {
  const auto wide = [](mx::array& a) { a = mx::astype(a, mx::float64, mx::Device::cpu); };
  wide(in.x);
  wide(in.weight);
  for (std::optional<mx::array>* a : {&in.bias, &in.initial_state}) {
    if (*a) {
      wide(**a);
    }
  }
  return in;
}

CausalConv1dOutputs convolve(const CausalConv1dInputs& in) {
  CausalConv1dOutputs out = causal_conv1d(in, mx::Device::cpu);
  mx::eval(out.y, out.state);
  return out;
}

void expect_exact(const CausalConv1dInputs& in) {
  const CausalConv1dOutputs got = convolve(in);
  const CausalConv1dOutputs want = causal_conv1d_reference(in_float64(in), mx::Device::cpu);
  const mx::Dtype dtype = in.x.dtype();
  EXPECT_EQ(got.y.dtype(), dtype);
  EXPECT_EQ(got.state.dtype(), dtype);
  const double error = 1e-6 + (dtype == mx::bfloat16 ? 0x1p-8 : dtype == mx::float16 ? 0x1p-11 : 0.0);
  EXPECT_LT(worst_difference(got.y, want.y, want.y), error);
  EXPECT_EQ(worst_difference(got.state, want.state, want.state), 0.0);
}

CausalConv1dInputs cut(CausalConv1dInputs in, int from, int to) {
  in.x = positions(in.x, from, to);
  if (in.resets) {
    in.resets = positions(*in.resets, from, to);
  }
  return in;
}

CausalConv1dInputs row(CausalConv1dInputs in, int b) {
  in.x = batch_row(in.x, b);
  for (std::optional<mx::array>* a : {&in.initial_state, &in.spans, &in.resets}) {
    if (*a) {
      *a = batch_row(**a, b);
    }
  }
  return in;
}

const std::vector<Case> kCases = {{1, 1, 1, 1},   {1, 0, 5, 4},     {2, 7, 3, 4},    {1, 31, 33, 2},
                                  {2, 32, 32, 3}, {3, 65, 40, 4},   {1, 2, 97, 4},   {1, 63, 16, 1},
                                  {2, 5, 17, 11}, {1, 200, 130, 5}, {1, 11, 1536, 4}};

class CausalConv1dCases : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Shapes, CausalConv1dCases, ::testing::ValuesIn(kCases));

TEST_P(CausalConv1dCases, AgreesWithTheReferenceInFloat64) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    expect_exact(make_inputs(GetParam(), dtype));
  }
  CausalConv1dInputs narrow = make_inputs(GetParam(), mx::bfloat16);
  narrow.weight = mx::astype(narrow.weight, mx::bfloat16);
  narrow.bias = mx::astype(*narrow.bias, mx::bfloat16);
  expect_exact(narrow);
}

TEST_P(CausalConv1dCases, OptionalInputsMayBeAbsent) {
  CausalConv1dInputs in = make_inputs(GetParam());
  in.bias = std::nullopt;
  expect_exact(in);
  in.silu = false;
  expect_exact(in);
  in.initial_state = std::nullopt;
  expect_exact(in);
}

TEST_P(CausalConv1dCases, ReadsSlicesInPlace) {
  const CausalConv1dInputs in = make_inputs(GetParam(), mx::float16);
  CausalConv1dInputs slices = in;
  slices.x = inside_wider(in.x, 3, 7);
  const CausalConv1dOutputs got = convolve(slices);
  const CausalConv1dOutputs want = convolve(in);
  EXPECT_TRUE(same_bits(got.y, want.y));
  EXPECT_TRUE(same_bits(got.state, want.state));
}

TEST_P(CausalConv1dCases, SplitsGoOnFromTheState) {
  const CausalConv1dInputs in = make_inputs(GetParam(), mx::bfloat16);
  const CausalConv1dOutputs whole = convolve(in);
  const int length = GetParam().length;
  for (const int at : {0, 1, length / 3, length - 1, length}) {
    if (at < 0 || at > length) {
      continue;
    }
    const CausalConv1dOutputs first = convolve(cut(in, 0, at));
    CausalConv1dInputs rest = cut(in, at, length);
    rest.initial_state = first.state;
    const CausalConv1dOutputs second = convolve(rest);
    EXPECT_TRUE(same_bits(mx::concatenate({first.y, second.y}, 1), whole.y)) << at;
    EXPECT_TRUE(same_bits(second.state, whole.state)) << at;
  }
}

TEST_P(CausalConv1dCases, StepsEqualOneConvolution) {
  const CausalConv1dInputs in = make_inputs(GetParam());
  const CausalConv1dOutputs whole = convolve(in);
  CausalConv1dInputs step = in;
  for (int t = 0; t < GetParam().length; ++t) {
    step.x = mx::squeeze(positions(in.x, t, t + 1), 1);
    const CausalConv1dOutputs out = causal_conv1d_step(step, mx::Device::cpu);
    ASSERT_TRUE(same_bits(out.y, mx::squeeze(positions(whole.y, t, t + 1), 1))) << t;
    step.initial_state = out.state;
  }
  EXPECT_TRUE(same_bits(*step.initial_state, whole.state));
}

TEST_P(CausalConv1dCases, ThreadsAndOtherRowsDoNotChangeTheResult) {
  const CausalConv1dInputs in = make_inputs(GetParam());
  set_num_threads(1);
  const CausalConv1dOutputs one = convolve(in);
  set_num_threads(5);
  const CausalConv1dOutputs five = convolve(in);
  set_num_threads(0);
  EXPECT_TRUE(same_bits(one.y, five.y));
  EXPECT_TRUE(same_bits(one.state, five.state));
  for (int b = 0; b < GetParam().batch; ++b) {
    const CausalConv1dOutputs alone = convolve(row(in, b));
    EXPECT_TRUE(same_bits(alone.y, batch_row(one.y, b)));
    EXPECT_TRUE(same_bits(alone.state, batch_row(one.state, b)));
  }
}

TEST(CausalConv1d, PaddingChangesNothing) {
  const int length = 40;
  for (const int taps : {1, 2, 4, 7}) {
    CausalConv1dInputs in = make_inputs({7, length, 21, taps});
    // Left, right, both, whole, empty, shorter than the taps, and limits outside the array.
    const std::vector<int> spans = {13, 40, 0, 31, 5, 30, 0, 40, 20, 20, 17, 19, -3, 1000};
    in.spans = mx::array(spans.begin(), {7, 2}, mx::int32);
    const mx::array t = mx::reshape(mx::arange(length), {1, length, 1});
    const mx::array begin = mx::expand_dims(mx::slice(*in.spans, {0, 0}, {7, 1}), 2);
    const mx::array end = mx::expand_dims(mx::slice(*in.spans, {0, 1}, {7, 2}), 2);
    const mx::array real = mx::logical_and(mx::greater_equal(t, begin), mx::less(t, end));
    in.x = mx::where(real, in.x, mx::array(NAN));
    in.x.eval();
    const CausalConv1dOutputs all = convolve(in);
    for (int b = 0; b < 7; ++b) {
      const int from = std::max(0, spans[2 * static_cast<size_t>(b)]);
      const int to = std::min(length, spans[2 * static_cast<size_t>(b) + 1]);
      CausalConv1dInputs alone = cut(row(in, b), from, to);
      alone.spans = std::nullopt;
      const CausalConv1dOutputs want = convolve(alone);
      const mx::array y = batch_row(all.y, b);
      EXPECT_TRUE(same_bits(positions(y, from, to), want.y)) << b;
      EXPECT_TRUE(same_bits(batch_row(all.state, b), want.state)) << b;
      EXPECT_TRUE(same_bits(positions(y, 0, from), mx::zeros({1, from, 21}))) << b;
      EXPECT_TRUE(same_bits(positions(y, to, length), mx::zeros({1, length - to, 21}))) << b;
    }
  }
}

TEST(CausalConv1d, PackedDocumentsAreSeparate) {
  const int length = 60;
  for (const int taps : {1, 3, 4, 6}) {
    CausalConv1dInputs in = make_inputs({1, length, 9, taps});
    for (const std::vector<int>& starts :
         {std::vector<int>{0, 13, 14, 16, 40, 60}, std::vector<int>{5, 57, 60}, std::vector<int>{1, 2, 59, 60}}) {
      std::vector<uint8_t> resets(length, 0);
      for (size_t i = 0; i + 1 < starts.size(); ++i) {
        resets[static_cast<size_t>(starts[i])] = 1;
      }
      in.resets = mx::array(resets.begin(), {1, length}, mx::uint8);
      const CausalConv1dOutputs packed = convolve(in);
      CausalConv1dInputs plain = in;
      plain.resets = std::nullopt;
      int from = 0;
      for (const int to : starts) {
        const CausalConv1dOutputs alone = convolve(cut(plain, from, to));
        EXPECT_TRUE(same_bits(positions(packed.y, from, to), alone.y)) << from;
        if (to == length) {
          EXPECT_TRUE(same_bits(packed.state, alone.state));
        }
        plain.initial_state = std::nullopt;
        from = to;
      }
      expect_exact(in);
    }
  }
}

TEST(CausalConv1d, SpansWithResetsAgreeWithTheReference) {
  for (const int taps : {1, 2, 4, 9}) {
    CausalConv1dInputs in = make_inputs({4, 30, 5, taps});
    const std::vector<int> spans = {10, 30, 0, 15, 26, 29, 7, 7};
    in.spans = mx::array(spans.begin(), {4, 2}, mx::int32);
    std::vector<uint8_t> resets(4 * 30, 0);
    for (const int at : {5, 10, 29, 30 + 0, 30 + 14, 30 + 15, 60 + 27, 90 + 7}) {
      resets[static_cast<size_t>(at)] = 1;
    }
    in.resets = mx::array(resets.begin(), {4, 30}, mx::uint8);
    expect_exact(in);
  }
}

TEST(CausalConv1d, SaysWhatIsWrong) {
  const CausalConv1dInputs good = make_inputs({2, 6, 8, 4});
  const auto message = [](const CausalConv1dInputs& in) { return message_of([&] { causal_conv1d(in); }); };
  CausalConv1dInputs bad = good;
  bad.weight = mx::zeros({7, 4});
  EXPECT_EQ(message(bad), "[causal_conv1d] weight must be (8, 4) but got (7, 4)");
  bad = good;
  bad.weight = mx::zeros({8, 1, 4});
  EXPECT_EQ(message(bad), "[causal_conv1d] weight must be (D, K) but has shape (8, 1, 4)");
  bad = good;
  bad.bias = mx::zeros({4});
  EXPECT_EQ(message(bad), "[causal_conv1d] bias must be (8,) but got (4,)");
  bad = good;
  bad.initial_state = mx::zeros({2, 4, 8});
  EXPECT_EQ(message(bad), "[causal_conv1d] initial_state must be (2, 3, 8) but got (2, 4, 8)");
  bad = good;
  bad.x = mx::astype(good.x, mx::bfloat16);
  EXPECT_EQ(message(bad), "[causal_conv1d] initial_state must have x's dtype bfloat16 but has float32");
  bad = good;
  bad.weight = mx::astype(good.weight, mx::float16);
  EXPECT_EQ(message(bad), "[causal_conv1d] weight must be float32 or have x's dtype float32 but is float16");
  bad = good;
  bad.weight = mx::zeros({8, 0});
  EXPECT_NE(message(bad).find("must be at least 1"), std::string::npos);
  EXPECT_EQ(message_of([&] { causal_conv1d_step(good); }), "[causal_conv1d] x must be (B, D) but has shape (2, 6, 8)");
}

}  // namespace
}  // namespace mamba::ops
