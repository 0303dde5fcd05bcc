#include "mamba/ops/selective_scan/selective_scan.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/selective_scan/blelloch.h"
#include "mamba/ops/selective_scan/reference.h"
#include "mamba/ops/selective_scan/test_problems.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::batch_row;
using testing::in_float64;
using testing::inside_wider;
using testing::normal;
using testing::positions;
using testing::same_bits;
using testing::worst_difference;

using Case = testing::ScanCase;

SelectiveScanInputs make_inputs(const Case& c, mx::Dtype dtype = mx::float32, uint64_t seed = 1) {
  return testing::scan_inputs(c, dtype, seed);
}

// The exact outputs, and the sums of the magnitudes of everything that is added up to make them: rounding errors are
// relative to these, not to the sums, which may cancel.
struct Exact {
  SelectiveScanOutputs value;
  SelectiveScanOutputs magnitude;
};

Exact exact(const SelectiveScanInputs& in) {
  const SelectiveScanInputs wide = in_float64(in);
  SelectiveScanInputs positive = wide;
  for (mx::array* a : {&positive.u, &positive.B, &positive.C}) {
    *a = mx::abs(*a, mx::Device::cpu);
  }
  for (std::optional<mx::array>* a : {&positive.D, &positive.z, &positive.initial_state}) {
    if (*a) {
      **a = mx::abs(**a, mx::Device::cpu);
    }
  }
  const Exact out = {selective_scan_reference(wide, mx::Device::cpu),
                     selective_scan_reference(positive, mx::Device::cpu)};
  mx::eval(out.value.y, out.value.state, out.magnitude.y, out.magnitude.state);
  return out;
}

void expect_exact(const SelectiveScanOutputs& got, const Exact& want) {
  // A step of float32, some of which the recurrence adds up, and where y is narrower, half a step of its dtype.
  const double float_error = 1e-6;
  const mx::Dtype dtype = got.y.dtype();
  const double y_error = float_error + (dtype == mx::bfloat16 ? 0x1p-8 : dtype == mx::float16 ? 0x1p-11 : 0.0);
  EXPECT_LT(worst_difference(got.y, want.value.y, want.magnitude.y), y_error);
  EXPECT_LT(worst_difference(got.state, want.value.state, want.magnitude.state), float_error);
}

SelectiveScanOutputs scan(const SelectiveScanInputs& in) {
  SelectiveScanOutputs out = selective_scan(in, mx::Device::cpu);
  mx::eval(out.y, out.state);
  return out;
}

// Positions [from, to) of every sequence.
SelectiveScanInputs cut(SelectiveScanInputs in, int from, int to) {
  for (mx::array* a : {&in.u, &in.delta, &in.B, &in.C}) {
    *a = positions(*a, from, to);
  }
  for (std::optional<mx::array>* a : {&in.z, &in.resets}) {
    if (*a) {
      *a = positions(**a, from, to);
    }
  }
  return in;
}

SelectiveScanInputs row(SelectiveScanInputs in, int b) {
  for (mx::array* a : {&in.u, &in.delta, &in.B, &in.C}) {
    *a = batch_row(*a, b);
  }
  for (std::optional<mx::array>* a : {&in.z, &in.initial_state, &in.spans, &in.resets}) {
    if (*a) {
      *a = batch_row(**a, b);
    }
  }
  return in;
}

const std::vector<Case> kCases = {{1, 1, 1, 1},    {1, 0, 5, 3},    {2, 7, 3, 16},    {1, 31, 33, 8},
                                  {2, 32, 32, 16}, {1, 33, 31, 17}, {3, 65, 40, 5},   {1, 129, 97, 16},
                                  {2, 64, 64, 32}, {1, 63, 130, 1}, {1, 257, 24, 64}, {1, 11, 1536, 16},
                                  {5, 2, 8, 2},    {1, 70, 1300, 4}};

class SelectiveScanCases : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Shapes, SelectiveScanCases, ::testing::ValuesIn(kCases));

TEST_P(SelectiveScanCases, AgreesWithTheReferenceInFloat64) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    const SelectiveScanInputs in = make_inputs(GetParam(), dtype);
    const SelectiveScanOutputs got = scan(in);
    EXPECT_EQ(got.y.dtype(), dtype);
    EXPECT_EQ(got.state.dtype(), mx::float32);
    expect_exact(got, exact(in));
  }
}

// Another order of the same operations, so what remains is float64's rounding.
void expect_like_blelloch(const SelectiveScanInputs& in) {
  const Exact want = exact(in);
  const SelectiveScanOutputs got = selective_scan_blelloch(in_float64(in), mx::Device::cpu);
  EXPECT_EQ(got.y.dtype(), mx::float64);
  EXPECT_LT(worst_difference(got.y, want.value.y, want.magnitude.y), 1e-13);
  EXPECT_LT(worst_difference(got.state, want.value.state, want.magnitude.state), 1e-13);
  expect_exact(scan(in), {got, want.magnitude});
}

TEST_P(SelectiveScanCases, BlellochsScanGivesTheSame) {
  expect_like_blelloch(make_inputs(GetParam()));
  SelectiveScanInputs bare = make_inputs(GetParam(), mx::float32, 2);
  bare.D = bare.z = bare.delta_bias = bare.initial_state = std::nullopt;
  expect_like_blelloch(bare);
}

TEST_P(SelectiveScanCases, OptionalInputsMayBeAbsent) {
  for (int absent = 0; absent < 5; ++absent) {
    SelectiveScanInputs in = make_inputs(GetParam());
    if (absent == 0) in.D = std::nullopt;
    if (absent == 1) in.z = std::nullopt;
    if (absent == 2) in.delta_bias = std::nullopt;
    if (absent == 3) in.initial_state = std::nullopt;
    if (absent == 4) {
      in.delta_softplus = false;
      in.delta = mx::abs(in.delta);
      in.delta_bias = mx::abs(*in.delta_bias);
    }
    SCOPED_TRACE(absent);
    expect_exact(scan(in), exact(in));
  }
}

TEST_P(SelectiveScanCases, ReadsSlicesInPlace) {
  const SelectiveScanInputs in = make_inputs(GetParam(), mx::bfloat16);
  SelectiveScanInputs slices = in;
  slices.u = inside_wider(in.u, 3, 5);
  slices.z = inside_wider(*in.z, 0, 9);
  slices.delta = inside_wider(in.delta, 1, 1);
  slices.B = inside_wider(in.B, 7, 8);
  slices.C = inside_wider(in.C, 2, 2);
  const SelectiveScanOutputs got = scan(slices);
  const SelectiveScanOutputs want = scan(in);
  EXPECT_TRUE(same_bits(got.y, want.y));
  EXPECT_TRUE(same_bits(got.state, want.state));
}

TEST_P(SelectiveScanCases, SplitsGoOnFromTheState) {
  const SelectiveScanInputs in = make_inputs(GetParam(), mx::float16);
  const SelectiveScanOutputs whole = scan(in);
  const int length = GetParam().length;
  for (const int at : {0, 1, length / 3, length - 1, length}) {
    if (at < 0 || at > length) {
      continue;
    }
    const SelectiveScanOutputs first = scan(cut(in, 0, at));
    SelectiveScanInputs rest = cut(in, at, length);
    rest.initial_state = first.state;
    const SelectiveScanOutputs second = scan(rest);
    EXPECT_TRUE(same_bits(mx::concatenate({first.y, second.y}, 1), whole.y)) << at;
    EXPECT_TRUE(same_bits(second.state, whole.state)) << at;
  }
}

TEST_P(SelectiveScanCases, StepsEqualOneScan) {
  const SelectiveScanInputs in = make_inputs(GetParam(), mx::bfloat16);
  const SelectiveScanOutputs whole = scan(in);
  SelectiveScanInputs step = in;
  for (int t = 0; t < GetParam().length; ++t) {
    const SelectiveScanInputs one = cut(in, t, t + 1);
    step.u = mx::squeeze(one.u, 1);
    step.delta = mx::squeeze(one.delta, 1);
    step.B = mx::squeeze(one.B, 1);
    step.C = mx::squeeze(one.C, 1);
    step.z = mx::squeeze(*one.z, 1);
    const SelectiveScanOutputs out = selective_scan_step(step, mx::Device::cpu);
    ASSERT_TRUE(same_bits(out.y, mx::squeeze(positions(whole.y, t, t + 1), 1))) << t;
    step.initial_state = out.state;
  }
  EXPECT_TRUE(same_bits(*step.initial_state, whole.state));
}

TEST_P(SelectiveScanCases, ThreadsDoNotChangeTheResult) {
  const SelectiveScanInputs in = make_inputs(GetParam());
  set_num_threads(1);
  const SelectiveScanOutputs one = scan(in);
  set_num_threads(5);
  const SelectiveScanOutputs five = scan(in);
  set_num_threads(0);
  EXPECT_TRUE(same_bits(one.y, five.y));
  EXPECT_TRUE(same_bits(one.state, five.state));
}

TEST_P(SelectiveScanCases, RowsDoNotDependOnEachOther) {
  const SelectiveScanInputs in = make_inputs(GetParam());
  const SelectiveScanOutputs all = scan(in);
  for (int b = 0; b < GetParam().batch; ++b) {
    const SelectiveScanOutputs alone = scan(row(in, b));
    EXPECT_TRUE(same_bits(alone.y, batch_row(all.y, b)));
    EXPECT_TRUE(same_bits(alone.state, batch_row(all.state, b)));
  }
}

TEST(SelectiveScan, PaddingChangesNothing) {
  const int length = 100;
  SelectiveScanInputs in = make_inputs({6, length, 37, 16});
  // Left, right, both, whole, empty, and limits outside the array.
  const std::vector<int> spans = {40, 100, 0, 71, 5, 70, 0, 100, 50, 50, -3, 1000};
  in.spans = mx::array(spans.begin(), {6, 2}, mx::int32);
  // What lies outside must not matter, so it is made not a number.
  const mx::array t = mx::reshape(mx::arange(length), {1, length, 1});
  const mx::array begin = mx::expand_dims(mx::slice(*in.spans, {0, 0}, {6, 1}), 2);
  const mx::array end = mx::expand_dims(mx::slice(*in.spans, {0, 1}, {6, 2}), 2);
  const mx::array real = mx::logical_and(mx::greater_equal(t, begin), mx::less(t, end));
  for (mx::array* a : {&in.u, &in.delta, &in.B, &in.C, &*in.z}) {
    *a = mx::where(real, *a, mx::array(NAN));
    a->eval();
  }
  const SelectiveScanOutputs all = scan(in);
  for (int b = 0; b < 6; ++b) {
    const int from = std::max(0, spans[2 * b]);
    const int to = std::min(length, spans[2 * b + 1]);
    SelectiveScanInputs alone = cut(row(in, b), from, to);
    alone.spans = std::nullopt;
    const SelectiveScanOutputs want = scan(alone);
    const mx::array y = batch_row(all.y, b);
    EXPECT_TRUE(same_bits(positions(y, from, to), want.y)) << b;
    EXPECT_TRUE(same_bits(batch_row(all.state, b), want.state)) << b;
    EXPECT_TRUE(same_bits(positions(y, 0, from), mx::zeros({1, from, 37}))) << b;
    EXPECT_TRUE(same_bits(positions(y, to, length), mx::zeros({1, length - to, 37}))) << b;
  }
  EXPECT_TRUE(same_bits(batch_row(all.state, 4), batch_row(*in.initial_state, 4)));
}

TEST(SelectiveScan, PackedDocumentsAreSeparate) {
  const int length = 90;
  SelectiveScanInputs in = make_inputs({1, length, 40, 16});
  std::vector<uint8_t> resets(length, 0);
  const std::vector<int> starts = {13, 14, 64, 77, 90};
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    resets[static_cast<size_t>(starts[i])] = i == 1 ? 255 : 1;
  }
  in.resets = mx::array(resets.begin(), {1, length}, mx::uint8);
  const SelectiveScanOutputs packed = scan(in);
  SelectiveScanInputs plain = in;
  plain.resets = std::nullopt;
  int from = 0;
  for (const int to : starts) {
    const SelectiveScanOutputs alone = scan(cut(plain, from, to));
    EXPECT_TRUE(same_bits(positions(packed.y, from, to), alone.y)) << from;
    if (to == length) {
      EXPECT_TRUE(same_bits(packed.state, alone.state));
    }
    plain.initial_state = std::nullopt;
    from = to;
  }
  expect_exact(packed, exact(in));
}

TEST(SelectiveScan, ReferenceAndKernelAgreeOnSpansWithResets) {
  SelectiveScanInputs in = make_inputs({3, 70, 9, 4});
  const std::vector<int> spans = {10, 70, 0, 35, 66, 69};
  in.spans = mx::array(spans.begin(), {3, 2}, mx::int32);
  std::vector<uint8_t> resets(3 * 70, 0);
  for (const int at : {5, 10, 69, 70 + 0, 70 + 34, 70 + 35, 140 + 67}) {
    resets[static_cast<size_t>(at)] = 1;
  }
  in.resets = mx::array(resets.begin(), {3, 70}, mx::uint8);
  expect_exact(scan(in), exact(in));
  expect_like_blelloch(in);
}

TEST(SelectiveScan, ExtremeValues) {
  SelectiveScanInputs in = make_inputs({1, 4, 8, 2});
  in.z = std::nullopt;
  in.D = std::nullopt;
  in.delta_bias = std::nullopt;
  in.initial_state = std::nullopt;
  in.u = mx::ones({1, 4, 8});
  in.B = mx::ones({1, 4, 2});
  in.C = mx::ones({1, 4, 2});
  in.A = mx::full({8, 2}, -1.0f);
  // A huge dt forgets everything before it, a vanishing one changes nothing.
  const std::vector<float> delta = {1.0f, 200.0f, -200.0f, -1e30f};
  in.delta = mx::broadcast_to(mx::reshape(mx::array(delta.begin(), {4}), {1, 4, 1}), {1, 4, 8});
  const mx::array y = scan(in).y;
  mx::array dense = mx::contiguous(y);
  dense.eval();
  const float* p = dense.data<float>();
  EXPECT_NEAR(p[0], 2 * 1.3132616875f, 1e-6);
  EXPECT_EQ(p[8], 400.0f);
  EXPECT_EQ(p[16], 400.0f);
  EXPECT_EQ(p[24], 400.0f);

  SelectiveScanInputs overflow = in;
  overflow.A = mx::full({8, 2}, 1.0f);
  overflow.delta = mx::full({1, 4, 8}, 60.0f);
  EXPECT_EQ(mx::max(scan(overflow).state).item<float>(), INFINITY);

  SelectiveScanInputs nan = in;
  nan.delta = mx::full({1, 4, 8}, NAN);
  EXPECT_TRUE(mx::all(mx::isnan(scan(nan).y)).item<bool>());
}

TEST(SelectiveScan, SaysWhatIsWrong) {
  const SelectiveScanInputs good = make_inputs({2, 6, 8, 4});
  const auto message = [](const SelectiveScanInputs& in) { return message_of([&] { selective_scan(in); }); };
  SelectiveScanInputs bad = good;
  bad.A = mx::zeros({8, 5});
  EXPECT_EQ(message(bad), "[selective_scan] B must be (2, 6, 5) but got (2, 6, 4)");
  bad = good;
  bad.A = mx::zeros({7, 4});
  EXPECT_EQ(message(bad), "[selective_scan] A must be (8, 4) but got (7, 4)");
  bad = good;
  bad.A = mx::astype(good.A, mx::bfloat16);
  EXPECT_EQ(message(bad), "[selective_scan] A must be float32 but is bfloat16");
  bad = good;
  bad.delta = mx::astype(good.delta, mx::bfloat16);
  EXPECT_EQ(message(bad), "[selective_scan] delta must have u's dtype float32 but has bfloat16");
  bad = good;
  bad.u = mx::astype(good.u, mx::int32);
  EXPECT_EQ(message(bad), "[selective_scan] u must be float32, bfloat16 or float16 but is int32");
  bad = good;
  bad.z = mx::zeros({2, 6, 9});
  EXPECT_EQ(message(bad), "[selective_scan] z must be (2, 6, 8) but got (2, 6, 9)");
  bad = good;
  bad.initial_state = mx::zeros({1, 8, 4});
  EXPECT_EQ(message(bad), "[selective_scan] initial_state must be (2, 8, 4) but got (1, 8, 4)");
  bad = good;
  bad.spans = mx::zeros({2, 2}, mx::float32);
  EXPECT_EQ(message(bad), "[selective_scan] spans must be int32 but is float32");
  bad = good;
  bad.resets = mx::zeros({2, 7}, mx::uint8);
  EXPECT_EQ(message(bad), "[selective_scan] resets must be (2, 6) but got (2, 7)");
  bad = good;
  bad.D = mx::zeros({1});
  EXPECT_EQ(message(bad), "[selective_scan] D must be (8,) but got (1,)");
  bad = good;
  bad.u = mx::zeros({6, 8});
  EXPECT_EQ(message(bad), "[selective_scan] u must be (B, L, D) but has shape (6, 8)");
  bad = make_inputs({2, 6, 8, 4});
  bad.u = mx::zeros({0, 6, 8});
  EXPECT_NE(message(bad).find("must be at least 1"), std::string::npos);
  EXPECT_EQ(message_of([&] { selective_scan_step(good); }),
            "[selective_scan] u must be (B, D) but has shape (2, 6, 8)");
}

}  // namespace
}  // namespace mamba::ops
