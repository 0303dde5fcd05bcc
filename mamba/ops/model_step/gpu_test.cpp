// The kernel as host C++ against the reference.
#include "mamba/ops/model_step/gpu.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "mamba/ops/gpu/test_compare.h"
#include "mamba/ops/model_step/gpu_host.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::expect_close;
using testing::normal;

mx::Stream cpu() {
  return mx::default_stream(mx::Device::cpu);
}

struct Case {
  int batch, layers, width, channels, states, rank;
  mx::Dtype dtype;
  int words = 53;
};

struct Problem {
  mx::array tokens, conv, ssm;
  ModelStepWeights weights;
};

Problem problem_of(const Case& c, bool has_bias = true) {
  step::use_host_model_kernel();
  const auto scaled = [&](const mx::Shape& shape, int seed) {
    return normal(shape, seed, 1.0f / std::sqrt(static_cast<float>(shape.back())), 0.0f, c.dtype);
  };
  std::vector<int> ids;
  for (int b = 0; b < c.batch; ++b) {
    ids.push_back((7 * b + 3) % c.words);
  }
  const mx::Shape per_channel = {c.layers, c.channels};
  return {.tokens = mx::array(ids.begin(), {c.batch}, mx::int32),
          .conv = normal({c.layers, c.batch, 3, c.channels}, 2, 1.0f, 0.0f, c.dtype),
          .ssm = normal({c.layers, c.batch, c.channels, c.states}, 3),
          .weights = {.embeddings = normal({c.words, c.width}, 1, 1.0f, 0.0f, c.dtype),
                      .norm = normal({c.layers, c.width}, 4, 0.3f, 1.0f),
                      .eps = 1e-5f,
                      .in_proj = scaled({c.layers, 2 * c.channels, c.width}, 5),
                      .conv_weight = normal({c.layers, c.channels, 4}, 6),
                      .conv_bias = has_bias ? std::optional(normal(per_channel, 7)) : std::nullopt,
                      .x_proj = scaled({c.layers, c.rank + 2 * c.states, c.channels}, 8),
                      .dt_proj = scaled({c.layers, c.channels, c.rank}, 10),
                      .dt_bias = normal(per_channel, 11, 0.5f, -2.0f),
                      .A = mx::negative(mx::exp(normal({c.layers, c.channels, c.states}, 9))),
                      .D = normal(per_channel, 12),
                      .out_proj = scaled({c.layers, c.width, c.channels}, 13),
                      .norm_f = normal({c.width}, 14),
                      .output = scaled({c.words + 4, c.width}, 15),
                      .residual_dtype = mx::float32}};
}

constexpr step::ModelLaunch kOneRow = {2, 64, 1, 1, 1, 5, 1, 1, 7, 1, 1, 1};
constexpr step::ModelLaunch kFewRows = step::kHostLaunch;  // up to 8
constexpr step::ModelLaunch kManyRows = {2, 128, 16, 2, 2, 3, 1, 1, 2, 1, 3, 4};

void expect_reference(const Case& c, const step::ModelLaunch& launch, double tolerance) {
  SCOPED_TRACE(::testing::Message() << "batch " << c.batch << " width " << c.width << " groups " << launch.groups);
  const Problem p = problem_of(c, c.batch != 3);
  const ModelStepOutputs got = step::model(p.tokens, p.conv, p.ssm, p.weights, launch, cpu());
  const ModelStepOutputs want = model_step_reference(p.tokens, p.conv, p.ssm, p.weights, cpu());
  expect_close({got.logits, got.conv, got.ssm}, {want.logits, want.conv, want.ssm}, tolerance);
}

TEST(ModelStepGpu, AgreesWithTheReference) {
  // Products in another order.
  expect_reference({1, 2, 16, 32, 16, 4, mx::float32}, kFewRows, 5e-5);
  expect_reference({1, 1, 5, 7, 5, 1, mx::float32}, kFewRows, 5e-5);
  expect_reference({3, 2, 37, 41, 5, 6, mx::float32}, kFewRows, 5e-5);
  expect_reference({8, 1, 20, 24, 16, 4, mx::float32}, kFewRows, 5e-5);
}

TEST(ModelStepGpu, OneSequenceAgreesWithTheReference) {
  expect_reference({1, 2, 16, 32, 16, 4, mx::float32}, kOneRow, 5e-5);
  expect_reference({1, 1, 61, 43, 16, 4, mx::float32}, kOneRow, 5e-5);
  expect_reference({1, 2, 120, 24, 5, 2, mx::float32}, kOneRow, 5e-5);
}

TEST(ModelStepGpu, ManySequencesAgreeWithTheReference) {
  expect_reference({1, 1, 16, 24, 16, 4, mx::float32}, kManyRows, 5e-5);
  expect_reference({37, 2, 12, 20, 16, 4, mx::float32}, kManyRows, 5e-5);
  expect_reference({70, 1, 9, 11, 3, 2, mx::float32}, kManyRows, 5e-5);
}

void expect_reference_of_many(const Case& c, int groups) {
  SCOPED_TRACE(::testing::Message() << "batch " << c.batch << " width " << c.width << " groups " << groups);
  const Problem p = problem_of(c, c.batch != 37);
  step::ManyLaunch launch = step::kHostManyLaunch;
  launch.groups = groups;
  const ModelStepOutputs got = step::model_of_many(p.tokens, p.conv, p.ssm, p.weights, launch, cpu());
  const ModelStepOutputs want = model_step_reference(p.tokens, p.conv, p.ssm, p.weights, cpu());
  expect_close({got.logits, got.conv, got.ssm}, {want.logits, want.conv, want.ssm}, 5e-5);
}

TEST(ModelStepGpu, SlotsOfARingAgreeWithTheReference) {
  expect_reference_of_many({9, 1, 16, 32, 16, 4, mx::float32}, 1);
  expect_reference_of_many({37, 2, 48, 32, 16, 4, mx::float32}, 3);   // slots and columns that are not full
  expect_reference_of_many({70, 1, 80, 112, 16, 8, mx::float32}, 2);  // more slots than the ring has, rows by turns
  expect_reference_of_many({17, 3, 16, 48, 16, 4, mx::float32}, 7);   // groups without work
}

// In 16 bits neither side is right: the kernel may be twice as far from float32's results as the reference is.
ModelStepOutputs launch_of(const Problem& p, const step::ModelLaunch& launch) {
  return step::model(p.tokens, p.conv, p.ssm, p.weights, launch, cpu());
}
ModelStepOutputs launch_of(const Problem& p, const step::ManyLaunch& launch) {
  return step::model_of_many(p.tokens, p.conv, p.ssm, p.weights, launch, cpu());
}

ModelStepOutputs launch_of(const Problem& p, const step::OneLaunch& launch) {
  return step::one(p.tokens, p.conv, p.ssm, p.weights, launch, cpu());
}

struct InPairs {};
ModelStepOutputs launch_of(const Problem& p, const InPairs&) {
  return step::model_in_pairs(p.tokens, p.conv, p.ssm, p.weights, cpu()).value();
}

template <typename Launch>
void expect_near_float32(const Case& c, const Launch& launch) {
  const Problem p = problem_of(c);
  Problem wide = p;
  for (mx::array* a : {&wide.conv, &wide.weights.embeddings, &wide.weights.in_proj, &wide.weights.x_proj,
                       &wide.weights.dt_proj, &wide.weights.out_proj, &wide.weights.output}) {
    *a = mx::astype(*a, mx::float32);
  }
  const auto arrays = [](const ModelStepOutputs& out) { return std::vector{out.logits, out.conv, out.ssm}; };
  const auto got = arrays(launch_of(p, launch));
  const auto same = arrays(model_step_reference(p.tokens, p.conv, p.ssm, p.weights, cpu()));
  const auto want = arrays(model_step_reference(wide.tokens, wide.conv, wide.ssm, wide.weights, cpu()));
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(got[i].dtype(), same[i].dtype());
    const mx::array size = mx::maximum(mx::abs(want[i]), mx::sqrt(mx::mean(mx::square(want[i]))));
    EXPECT_LT(testing::worst_difference(got[i], want[i], size),
              2 * testing::worst_difference(same[i], want[i], size) + 0x1p-8)
        << "array " << i << " of batch " << c.batch;
  }
}

TEST(ModelStepGpu, In16BitsIsAsNearToFloat32AsTheReference) {
  expect_near_float32({1, 2, 64, 128, 16, 8, mx::bfloat16}, kOneRow);
  expect_near_float32({5, 2, 33, 61, 9, 5, mx::bfloat16}, kFewRows);
  expect_near_float32({35, 1, 32, 64, 16, 8, mx::bfloat16}, kManyRows);
  expect_near_float32({35, 2, 64, 96, 16, 8, mx::bfloat16}, step::kHostManyLaunch);
}

// Groups that reach one another's shared memory, more layers than the ring has slots for, words that fill no turn and
// more than one, and sequences that fill no slot.
TEST(ModelStepGpu, PairsOfGroupsIn16Bits) {
  expect_near_float32({37, 3, 256, 512, 16, 32, mx::bfloat16}, InPairs());
  expect_near_float32({64, 1, 256, 512, 16, 32, mx::bfloat16, 1100}, InPairs());
}

TEST(ModelStepGpu, StepsFollowOneAnother) {
  Problem p = problem_of({2, 2, 16, 32, 16, 4, mx::float32});
  Problem q = p;
  for (int t = 0; t < 4; ++t) {
    const ModelStepOutputs got = model_step(p.tokens, p.conv, p.ssm, p.weights, cpu());
    const ModelStepOutputs want = model_step_reference(q.tokens, q.conv, q.ssm, q.weights, cpu());
    expect_close({got.logits, got.conv, got.ssm}, {want.logits, want.conv, want.ssm}, 1e-4);
    p.conv = got.conv;
    p.ssm = got.ssm;
    q.conv = want.conv;
    q.ssm = want.ssm;
    // As choose_token() gives them: the ids in the first column.
    p.tokens = q.tokens = mx::array({5 + t, 99, 40 - t, 99}, {2, 2}, mx::int32);
  }
}

// One sequence as a stream of weights: groups that do not divide anything, slots that leave a rest and that do not, one
// layer and more than the rings hold.
void expect_one(const Case& c, const step::OneLaunch& launch) {
  SCOPED_TRACE(::testing::Message() << "width " << c.width << " groups " << launch.groups << " slots of "
                                    << launch.slot);
  const Problem p = problem_of(c, c.layers != 3);
  const ModelStepOutputs got = launch_of(p, launch);
  const ModelStepOutputs want = model_step_reference(p.tokens, p.conv, p.ssm, p.weights, cpu());
  expect_close({got.logits, got.conv, got.ssm}, {want.logits, want.conv, want.ssm}, 5e-5);
}

TEST(ModelStepGpu, AStreamOfWeightsAgreesWithTheReference) {
  expect_one({1, 2, 16, 32, 16, 4, mx::float32}, {2, 64, 16, 6, 3, 3});
  expect_one({1, 3, 20, 44, 16, 8, mx::float32}, {3, 64, 12, 9, 6, 3});
  expect_one({1, 1, 12, 28, 32, 4, mx::float32, 201}, {5, 64, 8, 62, 62, 2});
  expect_one({1, 2, 60, 56, 16, 4, mx::float32}, {1, 64, 32, 6, 2, 2});
}

TEST(ModelStepGpu, AStreamOfWeightsIn16Bits) {
  const Case c = {1, 2, 64, 128, 16, 8, mx::bfloat16};
  expect_near_float32(c, step::OneLaunch{3, 64, 40, 6, 6, 3});
}

// What the kernel's source takes for granted of how a launch is cut.
TEST(ModelStepGpu, LaunchesFitTheDevice) {
  for (const int width : {96, 768, 1024, 1536, 2048, 2560}) {
    const Problem p = problem_of({1, 1, width, 2 * width, 16, width / 16, mx::bfloat16});
    for (int batch = 1; batch <= 128; ++batch) {
      for (const int groups : {20, 132}) {
        SCOPED_TRACE(::testing::Message() << "batch " << batch << " width " << width << " groups " << groups);
        const step::ModelLaunch l = step::best_launch(p.weights, batch, groups);
        const int warps = l.threads / 32;
        const int rows = l.few == 1 ? 1 : 16;
        EXPECT_EQ(l.few == 1, batch == 1);
        EXPECT_EQ(l.few <= 8, batch <= 8);
        if (l.few == 1) {
          EXPECT_EQ(l.in_row_tiles * l.in_row_parts * l.out_row_tiles * l.out_row_parts * l.word_row_tiles, 1);
        }
        for (const int tiles : {l.in_tiles, l.out_tiles}) {
          EXPECT_GE(tiles, 1);
          EXPECT_EQ(warps % ((8 * tiles + 31) / 32), 0) << "SIMD groups keep their columns";
          EXPECT_LE(warps * rows * 8 * tiles * 4, 48 << 10) << "shared memory";
        }
        EXPECT_GE(warps * rows * 8, batch) << "factors of rows lie where tiles do";
        EXPECT_LE(l.sequences, std::min(batch, 8)) << "rows of a tile";
        EXPECT_EQ(l.groups, groups);
      }
    }
  }
}

TEST(ModelStepGpu, LaunchesOfManyFitTheDevice) {
  constexpr int kShared = 232448;
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    for (const int width : {96, 768, 1024, 1536, 2048, 2560}) {
      const Problem p = problem_of({1, 1, width, 2 * width, 16, width / 16, dtype});
      for (int batch = 1; batch <= 130; ++batch) {
        for (const int groups : {20, 132}) {
          SCOPED_TRACE(::testing::Message() << "batch " << batch << " width " << width << " groups " << groups);
          const auto l = step::best_many_launch(p.weights, batch, groups, kShared);
          const bool whole = (width / 16) * static_cast<int>(dtype.size()) % 16 == 0;
          if (batch <= 8 || batch > 128 || !whole) {
            EXPECT_FALSE(l.has_value());
          }
          EXPECT_TRUE(l || batch != 64 || groups != 132 || width != 768);
          if (!l) {
            continue;
          }
          const int warps = l->threads / 32;
          for (const int tiles : {l->in_tiles, l->out_tiles}) {
            EXPECT_EQ(warps % ((8 * tiles + 31) / 32), 0) << "SIMD groups keep their columns";
          }
          for (const int parts : {l->in_row_parts, l->out_row_parts, l->word_row_parts}) {
            EXPECT_EQ(warps % parts, 0);
          }
          EXPECT_LE(l->shared_bytes + 4 * 128 + 16 * 64 + 16 * l->slots, kShared);
          EXPECT_GE(l->slot_lines, l->threads) << "a state of each lane";
          EXPECT_LE(l->sequences, std::min(batch, 8)) << "rows of a tile";
          EXPECT_GE(l->slots, l->in_ahead);
          EXPECT_GT(l->slots * (l->slot_lines / l->threads), l->sequences) << "states of a turn";
          EXPECT_EQ(l->groups, groups);
        }
      }
    }
  }
  const Problem p = problem_of({1, 1, 64, 128, 16, 8, mx::bfloat16});
  EXPECT_FALSE(step::best_many_launch(p.weights, 64, 132, 8 << 10).has_value()) << "too little shared memory";
  EXPECT_FALSE(step::best_many_launch(problem_of({1, 1, 64, 128, 9, 8, mx::bfloat16}).weights, 64, 132, kShared));
  EXPECT_FALSE(step::best_many_launch(problem_of({1, 1, 72, 128, 16, 8, mx::bfloat16}).weights, 64, 132, kShared));
}

TEST(ModelStepGpu, PairsOfGroupsAreForWideModels) {
  const auto can = [](const Case& c, int multiprocessors = 132, int shared_bytes = 227 << 10) {
    const Problem p = problem_of(c);
    return step::can_step_in_pairs(p.weights, p.conv, p.ssm, multiprocessors, shared_bytes);
  };
  const Case wide = {64, 1, 2048, 4096, 16, 128, mx::bfloat16};
  EXPECT_TRUE(can(wide));
  EXPECT_TRUE(can({64, 1, 1536, 3072, 16, 96, mx::bfloat16}));
  EXPECT_FALSE(can(wide, 114)) << "more groups than multiprocessors";
  EXPECT_FALSE(can(wide, 132, 200 << 10));
  EXPECT_FALSE(can({64, 1, 2048, 4096, 16, 128, mx::float32}));
  EXPECT_FALSE(can({64, 1, 2048, 4096, 8, 128, mx::bfloat16}));
  EXPECT_FALSE(can({64, 1, 768, 1536, 16, 96, mx::bfloat16})) << "too few groups";
  EXPECT_FALSE(can({64, 1, 2560, 5120, 16, 160, mx::bfloat16}));
  EXPECT_FALSE(can({65, 1, 2048, 4096, 16, 128, mx::bfloat16}));
  EXPECT_FALSE(can({8, 1, 2048, 4096, 16, 128, mx::bfloat16}));
}

TEST(ModelStepGpu, LaunchesForOneSequenceFitTheDevice) {
  constexpr int kHopper = 227 << 10;
  for (const int width : {96, 768, 1536}) {
    for (const mx::Dtype dtype : {mx::bfloat16, mx::float32}) {
      SCOPED_TRACE(::testing::Message() << "width " << width << " bytes " << dtype.size());
      const Problem p = problem_of({1, 1, width, 2 * width, 16, width / 16, dtype});
      const int size = static_cast<int>(dtype.size());
      const step::OneLaunch l = step::best_one(p.weights, 132, kHopper);
      if (dtype == mx::float32 && width > 1024) {
        EXPECT_EQ(l.groups, 0) << "rows too long for the ring";
        continue;
      }
      ASSERT_EQ(l.groups, std::min(132, width));
      EXPECT_EQ(l.slot * size % 16, 0);
      EXPECT_EQ(width % l.slot, 0) << "no slot is half empty";
      EXPECT_EQ(l.slots % l.bringers, 0);
      EXPECT_EQ(l.in_flight % l.bringers, 0);
      EXPECT_LE(l.in_flight, l.slots);
      EXPECT_GE(l.slots, l.threads / 32 * ((2 * width + l.slot - 1) / l.slot)) << "a row of each SIMD group";
      EXPECT_LE(l.slots * l.slot * size, kHopper);
      EXPECT_EQ(step::best_one(p.weights, 132, 8 << 10).groups, 0);
    }
  }
}

TEST(ModelStepGpu, BadShapesAreNamed) {
  Problem p = problem_of({2, 1, 16, 32, 16, 4, mx::float32});
  EXPECT_FALSE(can_step_model(1, cpu()));
  EXPECT_NE(message_of([&] { model_step(mx::array({1}), p.conv, p.ssm, p.weights, cpu()); }).find("tokens"),
            std::string::npos);
  p.weights.out_proj = p.weights.in_proj;
  EXPECT_NE(message_of([&] { model_step(p.tokens, p.conv, p.ssm, p.weights, cpu()); }).find("out_proj"),
            std::string::npos);
}

}  // namespace
}  // namespace mamba::ops
