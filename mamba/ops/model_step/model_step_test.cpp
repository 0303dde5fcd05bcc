// A step on CPUs against the reference.
#ifndef __APPLE__
#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>
#include <utility>
#include <vector>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/targets_testing.h"
#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/model_step/cpu_step.h"
#include "mamba/ops/quantized_linear/quantized_testing.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::batch_row;
using testing::normal;
using testing::same_bits;
using testing::worst_difference;

mx::Stream cpu() {
  return mx::default_stream(mx::Device::cpu);
}

// bits 0: floats. Of quantised weights all but dt_proj are, as in models.
struct Case {
  int batch, width, channels, states, rank, taps;
  mx::Dtype dtype;
  int bits = 0;
  mx::Dtype residual = mx::float32;
  bool has_biases = false;
  mx::Dtype weights = mx::float32;  // norm, convolution
  bool packs = false;
  int blocks = 2;
  int words = 91;
};

struct Problem {
  mx::array h, conv, ssm;
  CpuModelStepWeights weights;
};

StepMatrix matrix_of(const Case& c, int n, int k, int seed, bool quantizable, float scale = 1.0f) {
  const mx::array floats = normal({n, k}, seed, scale / std::sqrt(static_cast<float>(k)), 0.0f, c.dtype);
  if (c.bits == 0 || !quantizable) {
    return floats;
  }
  const QuantizedWeight quantized = quantize(floats, 32, c.bits);
  return c.packs ? StepMatrix(testing::packed(quantized)) : StepMatrix(quantized);
}

// States, D, B and C are small enough that the mixer's output is about 1, as in models: of one a hundred times as
// large, which B and C of 5 make, what its rounding to 16 bits does is large beside the sum that is compared.
CpuStepWeights block_of(const Case& c, int seed) {
  const auto matrix = [&](int n, int k, int of, bool quantizable, float scale = 1.0f) {
    return matrix_of(c, n, k, seed + of, quantizable, scale);
  };
  const auto optional = [&](int n, int of) {
    return c.has_biases ? std::optional(normal({n}, seed + of, 1.0f, 0.0f, c.weights)) : std::nullopt;
  };
  return {.norm = normal({c.width}, seed + 4, 0.3f, 1.0f, c.weights),
          .eps = 1e-5f,
          .in_proj = matrix(2 * c.channels, c.width, 5, true),
          .in_bias = optional(2 * c.channels, 14),
          .conv_weight = normal({c.channels, c.taps}, seed + 6, 1.0f, 0.0f, c.weights),
          .conv_bias = optional(c.channels, 7),
          .x_proj = matrix(c.rank + 2 * c.states, c.channels, 8, true, 0.2f),
          .dt_proj = matrix(c.channels, c.rank, 10, false),
          .dt_bias = normal({c.channels}, seed + 11, 0.5f, -2.0f),
          .A = mx::negative(mx::exp(normal({c.channels, c.states}, seed + 9))),
          .D = normal({c.channels}, seed + 12, 0.3f),
          .out_proj = matrix(c.width, c.channels, 13, true),
          .out_bias = optional(c.width, 15)};
}

Problem problem_of(const Case& c) {
  std::vector<CpuStepWeights> blocks;
  for (int i = 0; i < c.blocks; ++i) {
    blocks.push_back(block_of(c, 100 * i));
  }
  return {.h = normal({c.batch, c.width}, 1, 1.0f, 0.0f, c.residual),
          .conv = normal({c.blocks, c.batch, c.taps - 1, c.channels}, 2, 1.0f, 0.0f, c.dtype),
          .ssm = normal({c.blocks, c.batch, c.channels, c.states}, 3, 0.2f),
          .weights = {.blocks = std::move(blocks),
                      .norm_f = normal({c.width}, 16, 0.3f, 1.0f, c.weights),
                      .eps = 1e-5f,
                      .output = matrix_of(c, c.words, c.width, 17, true)}};
}

// Of states (blocks, B, ...).
mx::array sequence_row(const mx::array& states, int b) {
  return mx::take(states, mx::array({b}), 1);
}

// Products in another order, rounded to the dtype in between: a number next to a rounding boundary goes the other way.
double tolerance(mx::Dtype dtype) {
  return dtype == mx::bfloat16 ? 0x1p-6 : dtype == mx::float16 ? 0x1p-9 : 2e-5;
}

std::vector<mx::array> arrays(const ModelStepOutputs& out) {
  return {out.logits, out.conv, out.ssm};
}

std::vector<mx::array> step(const Problem& p) {
  std::vector<mx::array> out = arrays(cpu_model_step(p.h, p.conv, p.ssm, read_for_cpu_step(p.weights, cpu()), cpu()));
  mx::eval(out);
  return out;
}

void expect_reference(const Case& c) {
  const Problem p = problem_of(c);
  const std::vector<mx::array> got = step(p);
  const std::vector<mx::array> want = arrays(cpu_model_step_reference(p.h, p.conv, p.ssm, p.weights, cpu()));
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].dtype(), want[i].dtype());
    EXPECT_LE(worst_difference(got[i], want[i], want[i]), tolerance(c.dtype)) << "output " << i;
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    for (const int batch : {1, 2, 3, 8, 9, 21}) {
      all.push_back({batch, 48, 96, 16, 3, 4, dtype});
      all.push_back({batch, 37, 71, 5, 6, 3, dtype, 0, dtype, true, dtype});
    }
    all.push_back({1, 1, 1, 1, 1, 2, dtype});
    all.push_back({2, 130, 333, 17, 9, 5, dtype, 0, mx::float32, true});
    all.push_back({5, 64, 128, 16, 4, 1, dtype});
    all.push_back({1, 40, 72, 4, 5, 4, dtype, 0, dtype, false, dtype, false, 1, 1});
    for (const int bits : {4, 8}) {
      for (const int batch : {1, 3, 8, 11}) {
        all.push_back({batch, 64, 160, 16, 7, 4, dtype, bits});
        all.push_back({batch, 64, 160, 16, 7, 4, dtype, bits, mx::float32, false, mx::float32, true});
      }
      all.push_back({2, 32, 96, 24, 3, 4, dtype, bits, dtype, true, dtype});
    }
  }
  return all;
}

void check_cases() {
  for (const Case& c : cases()) {
    SCOPED_TRACE(::testing::Message() << c.batch << " x " << c.width << ", D " << c.channels << ", N " << c.states
                                      << ", blocks " << c.blocks << ", " << c.dtype << ", bits " << c.bits
                                      << (c.packs ? " packed" : ""));
    expect_reference(c);
  }
}

TEST(ModelStepTargets, AgreeWithTheReference) {
  testing::on_each_target(check_cases);
}

TEST(ModelStep, EachSequenceGetsWhatItGetsAlone) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    for (const int bits : {0, 4, 8}) {
      const Problem all = problem_of({13, 64, 160, 16, 7, 4, dtype, bits, mx::float32, false, mx::float32, bits > 0});
      const std::vector<mx::array> together = step(all);
      for (int b = 0; b < 13; ++b) {
        const Problem one{batch_row(all.h, b), sequence_row(all.conv, b), sequence_row(all.ssm, b), all.weights};
        const std::vector<mx::array> alone = step(one);
        EXPECT_TRUE(same_bits(alone[0], batch_row(together[0], b))) << dtype << " bits " << bits << " row " << b;
        for (size_t i = 1; i < alone.size(); ++i) {
          EXPECT_TRUE(same_bits(alone[i], sequence_row(together[i], b))) << dtype << " bits " << bits << " row " << b;
        }
      }
    }
  }
}

TEST(ModelStep, DoesNotDependOnTheNumberOfThreads) {
  for (const auto& [bits, packs] : {std::pair{0, false}, {4, false}, {4, true}}) {
    const Problem p = problem_of({5, 224, 512, 16, 14, 4, mx::bfloat16, bits, mx::float32, false, mx::float32, packs});
    set_num_threads(1);
    const std::vector<mx::array> one = step(p);
    for (const int threads : {2, 3, 5}) {
      set_num_threads(threads);
      const std::vector<mx::array> more = step(p);
      for (size_t i = 0; i < one.size(); ++i) {
        EXPECT_TRUE(same_bits(one[i], more[i])) << threads;
      }
    }
    set_num_threads(0);
  }
}

TEST(ModelStep, WritesStatesInPlaceWhereNobodyHoldsThem) {
  Problem p = problem_of({2, 48, 96, 16, 3, 4, mx::bfloat16});
  mx::eval(p.h, p.conv, p.ssm);
  const auto memory = [](const mx::array& conv, const mx::array& ssm) {
    return std::vector<const void*>{conv.data<void>(), ssm.data<void>()};
  };
  const std::vector<const void*> before = memory(p.conv, p.ssm);
  const ModelStepOutputs out = cpu_model_step(p.h, p.conv, p.ssm, read_for_cpu_step(p.weights, cpu()), cpu());
  p.conv = p.ssm = mx::array(0.0f);
  mx::eval(out.logits, out.conv, out.ssm);
  EXPECT_EQ(memory(out.conv, out.ssm), before);
}

// States that somebody holds stay as they are, whether steps are evaluated one by one or together.
TEST(ModelStep, LeavesStatesThatAreHeld) {
  const Problem p = problem_of({2, 48, 96, 16, 3, 4, mx::float32});
  const std::vector<mx::array> before = {mx::add(p.h, mx::array(0.0f)), mx::add(p.conv, mx::array(0.0f)),
                                         mx::add(p.ssm, mx::array(0.0f))};
  mx::eval(before);
  const auto model = read_for_cpu_step(p.weights, cpu());
  ModelStepOutputs chained{p.h, p.conv, p.ssm};
  ModelStepOutputs stepwise = chained;
  for (int t = 0; t < 4; ++t) {
    chained = cpu_model_step(p.h, chained.conv, chained.ssm, model, cpu());
    stepwise = cpu_model_step(p.h, stepwise.conv, stepwise.ssm, model, cpu());
    mx::eval(stepwise.logits, stepwise.conv, stepwise.ssm);
  }
  EXPECT_TRUE(same_bits(chained.logits, stepwise.logits));
  EXPECT_TRUE(same_bits(chained.conv, stepwise.conv));
  EXPECT_TRUE(same_bits(chained.ssm, stepwise.ssm));
  EXPECT_TRUE(same_bits(p.h, before[0]));
  EXPECT_TRUE(same_bits(p.conv, before[1]));
  EXPECT_TRUE(same_bits(p.ssm, before[2]));
}

mx::array embeddings_of(const StepMatrix& matrix, const std::vector<int32_t>& ids, const Case& c) {
  const mx::array tokens(ids.begin(), {static_cast<int>(ids.size())}, mx::int32);
  const mx::array rows = [&] {
    if (const auto* floats = std::get_if<mx::array>(&matrix)) {
      return mx::astype(mx::take(*floats, tokens, 0, cpu()), c.dtype, cpu());
    }
    if (const auto* tiles = std::get_if<PackedWeight>(&matrix)) {
      return quantized_rows(*tiles, tokens, c.dtype, cpu());
    }
    return quantized_rows(std::get<QuantizedWeight>(matrix), tokens, c.dtype, cpu());
  }();
  return mx::astype(rows, c.residual, cpu());
}

// From tokens, on the calling thread, twice: first with states that somebody holds.
TEST(ModelStep, GivesTheSameBitsAtOnce) {
  const std::vector<int32_t> ids = {3, 90, 0, 90, 17};
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    for (const mx::Dtype residual : {mx::float32, dtype}) {
      for (const int bits : {0, 4, 8}) {
        for (const bool packs : {false, true}) {
          const Case c{5, 64, 160, 16, 7, 4, dtype, bits, residual, false, dtype, packs};
          SCOPED_TRACE(::testing::Message() << dtype << ", residual " << residual << ", " << bits << " bits " << packs);
          Problem p = problem_of(c);
          // Floats of another dtype than the model's are rounded.
          p.weights.embeddings = bits == 0 && packs ? StepMatrix(normal({c.words, c.width}, 18))
                                                    : matrix_of(c, c.words, c.width, 18, true);
          p.h = embeddings_of(*p.weights.embeddings, ids, c);
          const auto model = read_for_cpu_step(p.weights, cpu());
          const std::vector<mx::array> first = step(p);
          mx::array conv = p.conv, ssm = p.ssm;
          const std::vector<mx::array> before = {mx::add(p.conv, mx::array(0, dtype)), mx::add(p.ssm, mx::array(0.0f))};
          mx::eval(before);
          EXPECT_TRUE(same_bits(cpu_model_step_now(ids, residual, conv, ssm, model), first[0]));
          EXPECT_TRUE(same_bits(conv, first[1]));
          EXPECT_TRUE(same_bits(ssm, first[2]));
          EXPECT_TRUE(same_bits(p.conv, before[0]));
          EXPECT_TRUE(same_bits(p.ssm, before[1]));
          const std::vector<mx::array> second = step({p.h, first[1], first[2], p.weights});
          const std::vector<const void*> memory = {conv.data<void>(), ssm.data<void>()};
          EXPECT_TRUE(same_bits(cpu_model_step_now(ids, residual, conv, ssm, model), second[0]));
          EXPECT_TRUE(same_bits(conv, second[1]));
          EXPECT_TRUE(same_bits(ssm, second[2]));
          EXPECT_EQ((std::vector<const void*>{conv.data<void>(), ssm.data<void>()}), memory);
        }
      }
    }
  }
}

TEST(ModelStep, ReadsSlices) {
  const Problem p = problem_of({2, 48, 96, 16, 3, 4, mx::bfloat16});
  Problem q = p;
  q.h = testing::inside_wider(p.h, 1, 3);
  q.conv = testing::inside_wider(p.conv, 2, 5);
  CpuStepWeights& block = q.weights.blocks[1];
  block.A = mx::transpose(mx::contiguous(mx::transpose(block.A)));
  block.in_proj = testing::inside_wider(std::get<mx::array>(block.in_proj), 3, 7);
  const std::vector<mx::array> want = step(p);
  const std::vector<mx::array> got = step(q);
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_TRUE(same_bits(got[i], want[i])) << i;
  }
}

TEST(ModelStep, RefusesWhatDoesNotFit) {
  const Problem p = problem_of({2, 48, 96, 16, 3, 4, mx::float32});
  const auto refusal = [&](auto&& change) {
    Problem q = p;
    change(q);
    return message_of([&] { step(q); });
  };
  EXPECT_EQ(refusal([](Problem& q) {
              q.ssm = mx::zeros({2, 1, 96, 16});
            }),
            "[model_step] ssm must be (2, 2, 96, 16) but got (2, 1, 96, 16)");
  EXPECT_EQ(refusal([](Problem& q) {
              q.weights.blocks[1].out_proj = mx::zeros({48, 95});
            }),
            "[model_step] out_proj must be (48, 96) but is (48, 95)");
  EXPECT_EQ(refusal([](Problem& q) {
              q.weights.output = mx::zeros({91, 47});
            }),
            "[model_step] output must be (-1, 48) but is (91, 47)");
  EXPECT_EQ(refusal([](Problem& q) { q.h = mx::astype(q.h, mx::float16); }),
            "[model_step] h must be float32 or float32 but is float16");
  EXPECT_EQ(refusal([](Problem& q) { q.weights.blocks[0].A = mx::astype(q.weights.blocks[0].A, mx::bfloat16); }),
            "[model_step] A must be float32 but is bfloat16");
  EXPECT_EQ(refusal([](Problem& q) {
              q.weights.blocks[1] = block_of({2, 48, 96, 16, 4, 4, mx::float32}, 1);
            }),
            "[model_step] blocks 0 and 1 have different shapes");
  EXPECT_EQ(refusal([](Problem& q) { q.weights.blocks.clear(); }), "[model_step] there are no blocks");
  const auto at_once = [&](const Problem& q, mx::Dtype residual, const std::vector<int32_t>& tokens) {
    mx::array conv = q.conv, ssm = q.ssm;
    return message_of([&] { cpu_model_step_now(tokens, residual, conv, ssm, read_for_cpu_step(q.weights, cpu())); });
  };
  EXPECT_EQ(at_once(p, mx::float32, {1, 2}), "[model_step] there are no embeddings");
  Problem q = p;
  q.weights.embeddings = mx::zeros({91, 47});
  EXPECT_EQ(at_once(q, mx::float32, {1, 2}), "[model_step] embeddings must be (-1, 48) but is (91, 47)");
  q.weights.embeddings = mx::zeros({91, 48});
  EXPECT_EQ(at_once(q, mx::float32, {1}), "[model_step] conv must be (2, 1, 3, 96) but got (2, 2, 3, 96)");
  EXPECT_EQ(at_once(q, mx::bfloat16, {1, 2}), "[model_step] h must be float32 or float32 but is bfloat16");
  EXPECT_EQ(at_once(q, mx::float32, {}), "[model_step] there are no sequences");
}

}  // namespace
}  // namespace mamba::ops
#endif
