// The GPU kernels as host C++ against the reference: values and gradients.
#include "mamba/ops/selective_scan/gpu.h"

#include <gtest/gtest.h>
#include <mlx/primitives.h>
#include <mlx/transforms.h>

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mamba/ops/gpu/test_compare.h"
#include "mamba/ops/selective_scan/gpu_host.h"
#include "mamba/ops/selective_scan/gpu_plan.h"
#include "mamba/ops/selective_scan/reference.h"
#include "mamba/ops/selective_scan/test_problems.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::expect_close;
using testing::inside_wider;
using testing::normal;
using testing::positions;
using testing::worst_difference;

using Case = testing::ScanCase;
using Problem = testing::ScanProblem;
using Scan = testing::ScanFn;

Problem make_problem(const Case& c, mx::Dtype dtype = mx::float32) {
  scan::use_host_kernels();
  return testing::scan_problem(c, dtype, 17);
}

SelectiveScanOutputs kernel(const SelectiveScanInputs& in) {
  return scan::gpu_scan(in, mx::default_stream(mx::Device::cpu));
}

// y, the state and the gradients of sum(y gy) + sum(state gstate).
std::vector<mx::array> values_and_gradients(const Problem& problem, const Scan& scan) {
  const testing::ScanOfArrays f = testing::of_arrays(problem, scan);
  return testing::values_and_gradients(f.run, f.primals, {problem.gy, problem.gstate});
}

SelectiveScanOutputs large_kernel(const SelectiveScanInputs& in) {
  return scan::gpu_scan(in, mx::default_stream(mx::Device::cpu), scan::Dealing::kLarge);
}

SelectiveScanOutputs very_large_kernel(const SelectiveScanInputs& in) {
  return scan::gpu_scan(in, mx::default_stream(mx::Device::cpu), scan::Dealing::kVeryLarge);
}

SelectiveScanOutputs whole_sequences(const SelectiveScanInputs& in) {
  return scan::gpu_scan(in, mx::default_stream(mx::Device::cpu), scan::Dealing::kWholeSequences);
}

void expect_like_the_reference(const Problem& problem, const Scan& kernel = mamba::ops::kernel) {
  const std::vector<mx::array> got = values_and_gradients(problem, kernel);
  const std::vector<mx::array> want =
      values_and_gradients(testing::in_float64(problem),
                           [](const SelectiveScanInputs& in) { return selective_scan_reference(in, mx::Device::cpu); });
  // Relative to each array's own size. Half a step of a narrow dtype, and what a few hundred float32 steps add up to.
  const mx::Dtype dtype = problem.in.u.dtype();
  const double step = dtype == mx::bfloat16 ? 0x1p-8 : dtype == mx::float16 ? 0x1p-11 : 0.0;
  std::vector<std::string> names = {"y", "state"};
  Problem named = problem;
  for (const auto& [name, a] : testing::named_arrays(named.in)) {
    names.push_back("gradient of " + name);
  }
  for (size_t i = 0; i < names.size(); ++i) {
    if (got[i].size() > 0) {
      const mx::array size = mx::sqrt(mx::mean(mx::square(mx::astype(want[i], mx::float32))));
      EXPECT_LT(worst_difference(got[i], want[i], mx::maximum(mx::abs(mx::astype(want[i], mx::float32)), size)),
                step + 2e-5)
          << names[i];
    }
  }
  // Without gradients the same values come from other launches, and of one position from another kernel.
  SelectiveScanOutputs plain = kernel(problem.in);
  mx::eval(plain.y, plain.state);
  if (problem.in.u.shape(1) == 1) {
    expect_close({plain.y, plain.state}, {got[0], got[1]}, step + 2e-6);
  } else {
    EXPECT_TRUE(testing::same_bits(plain.y, got[0]));
    EXPECT_TRUE(testing::same_bits(plain.state, got[1]));
  }
}

// Every row of shape_of() in gpu_plan.cpp, and one chunk as well as several.
const std::vector<Case> kCases = {
    {1, 1, 1, 1},   {2, 7, 3, 16},   {1, 31, 33, 8},  {2, 33, 5, 3},   {1, 100, 70, 16}, {1, 190, 3, 9},
    {2, 41, 9, 32}, {1, 35, 17, 33}, {1, 19, 9, 128}, {1, 17, 5, 200}, {1, 8, 64, 16},   {1, 0, 3, 16},
};

class SelectiveScanGpu : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Shapes, SelectiveScanGpu, ::testing::ValuesIn(kCases));

TEST_P(SelectiveScanGpu, AgreesWithTheReferenceInFloat64) {
  expect_like_the_reference(make_problem(GetParam()));
}

TEST(SelectiveScanGpu, LargeInputsTakeOtherShapes) {
  // One chunk and several. In 16 bits lanes have two channels: with a last one alone, and without.
  for (const Case& c : {Case{2, 70, 67, 16}, {1, 97, 68, 16}, {2, 31, 66, 16}, {1, 129, 1, 13}}) {
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
      SCOPED_TRACE(c.channels);
      expect_like_the_reference(make_problem(c, dtype), large_kernel);
      if (dtype != mx::float32) {
        expect_like_the_reference(make_problem(c, dtype), very_large_kernel);
      }
    }
  }
}

TEST(SelectiveScanGpu, SequencesNeedNotBeCut) {
  // A last group of channels that is not full, segments that are and are not.
  for (const Case& c : {Case{2, 70, 51, 16}, {1, 96, 48, 11}, {1, 33, 1, 16}, {2, 90, 19, 32}, {1, 50, 20, 100}}) {
    SCOPED_TRACE(c.channels);
    expect_like_the_reference(make_problem(c), whole_sequences);
    Problem without_states = make_problem(c, mx::bfloat16);
    without_states.in.initial_state = std::nullopt;
    expect_like_the_reference(without_states, whole_sequences);
  }
}

// Of all launches that give `arrays`.
size_t bytes_of_results(const std::vector<mx::array>& arrays) {
  size_t bytes = 0;
  std::vector<mx::array> open = arrays;
  std::set<std::uintptr_t> seen;
  while (!open.empty()) {
    const mx::array a = open.back();
    open.pop_back();
    if (!a.has_primitive() || !seen.insert(a.id()).second) {
      continue;
    }
    bytes += std::string_view(a.primitive().name()) == "HostKernel" ? a.nbytes() : 0;
    open.insert(open.end(), a.inputs().begin(), a.inputs().end());
    open.insert(open.end(), a.siblings().begin(), a.siblings().end());
  }
  return bytes;
}

TEST(SelectiveScanGpu, SharesTakeThePlaceOfKeptStates) {
  for (const bool is_cut : {true, false}) {
    SCOPED_TRACE(is_cut);
    const size_t length = 256;
    const size_t channels = is_cut ? 128 : 96;
    Problem problem = make_problem({1, static_cast<int>(length), static_cast<int>(channels), 16});
    problem.in.initial_state = std::nullopt;
    const testing::ScanOfArrays f = testing::of_arrays(problem, is_cut ? large_kernel : whole_sequences);
    const auto y = [&](const std::vector<mx::array>& in) { return std::vector{f.run(in)[0]}; };
    auto [values, gradients] = mx::vjp(y, f.primals, {problem.gy});
    gradients.push_back(values[0]);
    const size_t wide = sizeof(float) * length * channels;
    const size_t kept = wide * 16 / 32;
    // As many chunks as segments have a cell each for the gradient behind them.
    const size_t ends = is_cut ? kept : 0;
    // The gradients of B and C, twice as much for what is small, and none for shares, which two groups have.
    const size_t narrow = sizeof(float) * length * 2 * 16;
    EXPECT_LE(bytes_of_results(gradients), 4 * wide + kept + ends + 3 * narrow);
    EXPECT_GE(bytes_of_results(gradients), 4 * wide + kept + ends + narrow);
  }
}

TEST(SelectiveScanGpu, NarrowDtypes) {
  for (const mx::Dtype dtype : {mx::bfloat16, mx::float16}) {
    Problem problem = make_problem({2, 45, 21, 16}, dtype);
    expect_like_the_reference(problem);
    problem.in.D = mx::astype(*problem.in.D, dtype);
    problem.in.delta_bias = mx::astype(*problem.in.delta_bias, dtype);
    expect_like_the_reference(problem);
  }
}

TEST(SelectiveScanGpu, OptionalInputsMayBeAbsent) {
  for (int absent = 0; absent < 6; ++absent) {
    SCOPED_TRACE(absent);
    Problem problem = make_problem({2, 37, 6, 16});
    if (absent == 0 || absent == 5) problem.in.D = std::nullopt;
    if (absent == 1 || absent == 5) problem.in.z = std::nullopt;
    if (absent == 2 || absent == 5) problem.in.delta_bias = std::nullopt;
    if (absent == 3 || absent == 5) problem.in.initial_state = std::nullopt;
    if (absent == 4) {
      problem.in.delta_softplus = false;
      problem.in.delta = mx::abs(problem.in.delta);
      problem.in.delta_bias = mx::abs(*problem.in.delta_bias);
    }
    expect_like_the_reference(problem);
  }
}

TEST(SelectiveScanGpu, SpansAndResets) {
  const int length = 150;
  for (const int states : {16, 40}) {
    Problem problem = make_problem({6, length, 5, states});
    const std::vector<int> spans = {40, 150, 0, 71, 5, 130, 64, 128, 50, 50, -3, 1000};
    problem.in.spans = mx::array(spans.begin(), {6, 2}, mx::int32);
    if (states == 16) {
      expect_like_the_reference(problem);
    }
    std::vector<uint8_t> resets(6 * length, 0);
    for (const int at : {0, 40, 41, 64, 149, 150 + 63, 150 + 70, 150 + 71, 300 + 64, 450 + 127, 750 + 0, 750 + 128}) {
      resets[static_cast<size_t>(at)] = 1;
    }
    problem.in.resets = mx::array(resets.begin(), {6, length}, mx::uint8);
    expect_like_the_reference(problem);
    if (states == 16) {
      problem.in.spans = std::nullopt;
      expect_like_the_reference(problem);
    }
  }
}

// Of positions behind the end and outside of spans, with all that decides what a kernel does about them.
TEST(SelectiveScanGpu, ChunksFillAGpu) {
  // 66 chunks of 12 groups take all of 792 places at once, and what is left of 65,536 positions is short.
  EXPECT_EQ(scan::even_chunks(65536, scan::kWhole, 128, 12, 792), 67);
  // As many as there are already, where chunks are short or need not be.
  EXPECT_EQ(scan::even_chunks(2048, scan::kTwoLanes, 16, 24, 528), 16);
  EXPECT_EQ(scan::even_chunks(65536, scan::kWhole, 1, 12, 792), 1);
  for (const int length : {16385, 40001, 262144, 1000000}) {
    const int chunks = length / 512;
    const int even = scan::even_chunks(length, scan::kShortTiles, chunks, 24, 396);
    EXPECT_LE(even, chunks + 1);
    EXPECT_GE(even, chunks / 2);
  }
}

TEST(SelectiveScanGpu, LargeInputsEndAnywhere) {
  const std::vector<int> spans = {3, 61, 0, 17};
  std::vector<uint8_t> resets(2 * 70, 0);
  for (const int at : {5, 36, 60, 70, 70 + 16}) {
    resets[static_cast<size_t>(at)] = 1;
  }
  for (const bool softplus : {true, false}) {
    for (const int also : {0, 1, 2, 3}) {
      SCOPED_TRACE(also);
      Problem problem = make_problem({2, 70, 6, 16}, mx::bfloat16);
      if (also & 1) problem.in.spans = mx::array(spans.begin(), {2, 2}, mx::int32);
      if (also & 2) problem.in.resets = mx::array(resets.begin(), {2, 70}, mx::uint8);
      if (!softplus) {
        problem.in.delta_softplus = false;
        problem.in.delta = mx::abs(problem.in.delta);
        problem.in.delta_bias = mx::abs(*problem.in.delta_bias);
      }
      expect_like_the_reference(problem, large_kernel);
      expect_like_the_reference(problem, very_large_kernel);
    }
  }
}

TEST(SelectiveScanGpu, PaddingIsNeverReadAndSlicesAreReadInPlace) {
  const int length = 80;
  Problem problem = make_problem({2, length, 20, 16});
  const std::vector<int> spans = {30, 80, 3, 70};
  problem.in.spans = mx::array(spans.begin(), {2, 2}, mx::int32);
  const std::vector<mx::array> want = values_and_gradients(problem, kernel);
  const mx::array t = mx::reshape(mx::arange(length), {1, length, 1});
  const mx::array begin = mx::expand_dims(mx::slice(*problem.in.spans, {0, 0}, {2, 1}), 2);
  const mx::array end = mx::expand_dims(mx::slice(*problem.in.spans, {0, 1}, {2, 2}), 2);
  const mx::array real = mx::logical_and(mx::greater_equal(t, begin), mx::less(t, end));
  for (mx::array* a : {&problem.in.u, &problem.in.delta, &problem.in.B, &problem.in.C, &*problem.in.z, &problem.gy}) {
    *a = inside_wider(mx::where(real, *a, mx::array(NAN)), 3, 5);
  }
  // Any strides will do.
  problem.in.delta = mx::swapaxes(mx::contiguous(mx::swapaxes(problem.in.delta, 1, 2)), 1, 2);
  const std::vector<mx::array> got = values_and_gradients(problem, kernel);
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_TRUE(testing::same_bits(got[i], want[i])) << i;
  }
}

TEST(SelectiveScanGpu, StepsEqualTheScan) {
  for (const int states : {16, 5, 40}) {
    const Problem problem = make_problem({2, 6, 35, states});
    const SelectiveScanOutputs whole = selective_scan_reference(problem.in, mx::Device::cpu);
    SelectiveScanInputs one = problem.in;
    for (int t = 0; t < 6; ++t) {
      const auto at = [&](const mx::array& a) { return mx::squeeze(positions(a, t, t + 1), 1); };
      one.u = at(problem.in.u);
      one.delta = at(problem.in.delta);
      one.B = at(problem.in.B);
      one.C = at(problem.in.C);
      one.z = at(*problem.in.z);
      const SelectiveScanOutputs out = scan::gpu_step(one, mx::default_stream(mx::Device::cpu));
      EXPECT_LT(worst_difference(out.y, at(whole.y), at(whole.y)), 5e-6) << t;
      one.initial_state = out.state;
    }
    EXPECT_LT(worst_difference(*one.initial_state, whole.state, whole.state), 5e-6);
  }
}

TEST(SelectiveScanGpu, StepsCanBeDifferentiated) {
  const Problem problem = make_problem({3, 1, 10, 16});
  const Scan step = [](const SelectiveScanInputs& in) {
    SelectiveScanInputs one = in;
    for (mx::array* a : {&one.u, &one.delta, &one.B, &one.C, &*one.z}) {
      *a = mx::squeeze(*a, 1);
    }
    SelectiveScanOutputs out = scan::gpu_step(one, mx::default_stream(mx::Device::cpu));
    out.y = mx::expand_dims(out.y, 1);
    return out;
  };
  const std::vector<mx::array> got = values_and_gradients(problem, step);
  const std::vector<mx::array> want = values_and_gradients(problem, kernel);
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_TRUE(testing::same_bits(got[i], want[i])) << i;
  }
}

int chunks_of(int batch, int length, int channels, int states) {
  return scan::chunks_of(batch, length, channels,
                         scan::shape_of(batch, length, channels, states, scan::Dealing::kBySize));
}

TEST(SelectiveScanGpu, LanesDoMoreWhereThereAreManyOfThem) {
  using Lanes = std::pair<int, int>;  // to a channel, and channels to a lane
  const auto of = [](int batch, int length, int channels, int bytes) {
    const auto dealing = scan::Dealing::kBySize;
    const scan::Shape shape = scan::shape_of(batch, length, channels, 16, dealing);
    const int chunks = scan::chunks_of(batch, length, channels, shape);
    const scan::Shape forward = scan::forward_shape_of(shape, batch, channels, chunks, bytes, dealing);
    return Lanes{forward.lanes, forward.each};
  };
  EXPECT_EQ(of(1, 65536, 1536, 2), Lanes(1, 2));
  EXPECT_EQ(of(1, 65536, 1536, 4), Lanes(2, 1));
  EXPECT_EQ(of(8, 2048, 4096, 2), Lanes(2, 2));
  EXPECT_EQ(of(8, 2048, 4096, 4), Lanes(2, 1));
  EXPECT_EQ(of(16, 2048, 1536, 2), Lanes(2, 1));
  EXPECT_EQ(of(1, 2048, 1536, 2), Lanes(2, 1));
  EXPECT_EQ(of(1, 2048, 1536, 4), Lanes(2, 1));
  EXPECT_EQ(of(8, 512, 1536, 4), Lanes(4, 1));
}

TEST(SelectiveScanGpu, ChunksFillTheMachineAndCoverTheSequence) {
  EXPECT_EQ(chunks_of(8, 2048, 4096, 16), 1);
  EXPECT_GT(chunks_of(1, 2048, 1536, 16), 8);
  EXPECT_EQ(chunks_of(1, 1, 1536, 16), 1);
  for (const int length : {1, 31, 33, 64, 97, 320, 1000, 65536}) {
    for (const int channels : {1, 300, 1536}) {
      const int chunks = chunks_of(1, length, channels, 16);
      const int segments = (length + 31) / 32;
      const int per_chunk = (segments + chunks - 1) / chunks;
      EXPECT_GE(chunks * per_chunk, segments);
      EXPECT_LT((chunks - 1) * per_chunk, segments);  // none is empty
    }
  }
}

}  // namespace
}  // namespace mamba::ops
