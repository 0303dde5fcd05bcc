// A block as one node must give the bits of the operations that it is made of.
#include "mamba/ops/training_block/training_block.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <numeric>
#include <string>
#include <vector>

#include "mamba/base/threads.h"
#include "mamba/ops/branches/branches.h"
#include "mamba/ops/causal_conv1d/causal_conv1d.h"
#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/linear/linear.h"
#include "mamba/ops/rms_norm/rms_norm.h"
#include "mamba/ops/selective_scan/selective_scan.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::normal;
using testing::same_bits;

using Arrays = std::vector<mx::array>;

struct Case {
  int batch, length, width, inner, rank, states, taps;
  mx::Dtype dtype;
  bool has_residual = true;
  mx::Dtype residual_dtype = mx::float32;
  bool has_bias = true;
  bool has_resets = false;
};

// In the order of arrays_of().
enum { kX, kNorm, kInProj, kConvWeight, kXProj, kDtProj, kA, kD, kDtBias, kOutProj, kConv, kSsm, kResidual, kConvBias };

TrainingBlockInputs inputs_of(const Case& c, const Arrays& a) {
  TrainingBlockInputs in{.x = a[kX],
                         .norm = a[kNorm],
                         .eps = 1e-5f,
                         .in_proj = a[kInProj],
                         .conv_weight = a[kConvWeight],
                         .x_proj = a[kXProj],
                         .dt_proj = a[kDtProj],
                         .A = a[kA],
                         .D = a[kD],
                         .dt_bias = a[kDtBias],
                         .out_proj = a[kOutProj],
                         .conv = a[kConv],
                         .ssm = a[kSsm]};
  if (c.has_residual) {
    in.residual = a[kResidual];
  }
  if (c.has_bias) {
    in.conv_bias = a[kConvBias];
  }
  if (c.has_resets) {
    std::vector<uint8_t> resets(static_cast<size_t>(c.batch * c.length), 0);
    for (size_t i = 0; i < resets.size(); i += 17) {
      resets[i] = 1;
    }
    in.resets = mx::array(resets.begin(), {c.batch, c.length}, mx::uint8);
  }
  return in;
}

Arrays arrays_of(const Case& c) {
  uint64_t seed = 1;
  const auto some = [&](const mx::Shape& shape, float scale, mx::Dtype dtype) {
    return normal(shape, seed++, scale, 0.0f, dtype);
  };
  const mx::Dtype T = c.dtype;
  Arrays a = {some({c.batch, c.length, c.width}, 1.0f, T),
              some({c.width}, 1.0f, T),
              some({2 * c.inner, c.width}, 0.2f, T),
              some({c.inner, c.taps}, 0.5f, T),
              some({c.rank + 2 * c.states, c.inner}, 0.2f, T),
              some({c.inner, c.rank}, 0.2f, T),
              mx::negative(mx::exp(some({c.inner, c.states}, 0.5f, mx::float32))),
              some({c.inner}, 1.0f, mx::float32),
              some({c.inner}, 1.0f, mx::float32),
              some({c.width, c.inner}, 0.2f, T),
              some({c.batch, c.taps - 1, c.inner}, 1.0f, T),
              some({c.batch, c.inner, c.states}, 1.0f, mx::float32),
              some({c.batch, c.length, c.width}, 1.0f, c.residual_dtype),
              some({c.inner}, 1.0f, T)};
  mx::eval(a);
  return a;
}

Arrays one_node(const Case& c, const Arrays& a) {
  const TrainingBlockOutputs out = training_block(inputs_of(c, a), c.residual_dtype);
  return {out.y, out.residual, out.conv, out.ssm};
}

Arrays operations(const Case& c, const Arrays& a) {
  const TrainingBlockInputs in = inputs_of(c, a);
  const auto [y, sum] = rms_norm_add(in.x, in.residual, in.norm, in.eps, c.residual_dtype);
  const Arrays halves = column_branches(linear(y, in.in_proj), {c.inner, c.inner});
  const auto conv = causal_conv1d({.x = halves[0],
                                   .weight = in.conv_weight,
                                   .bias = in.conv_bias,
                                   .initial_state = in.conv,
                                   .resets = in.resets,
                                   .silu = true});
  const auto [u, projected] = two_branches(conv.y);
  const Arrays parts = column_branches(linear(projected, in.x_proj), {c.rank, c.states, c.states});
  const auto scan = selective_scan({.u = u,
                                    .delta = linear(parts[0], in.dt_proj),
                                    .A = in.A,
                                    .B = parts[1],
                                    .C = parts[2],
                                    .D = in.D,
                                    .z = halves[1],
                                    .delta_bias = in.dt_bias,
                                    .initial_state = in.ssm,
                                    .resets = in.resets});
  return {linear(scan.y, in.out_proj), sum, conv.state, scan.state};
}

// What can be differentiated of arrays_of().
std::vector<int> differentiable(const Case& c) {
  std::vector<int> all = {kX, kNorm, kInProj, kConvWeight, kXProj, kDtProj, kA, kD, kDtBias, kOutProj};
  if (c.has_residual) {
    all.push_back(kResidual);
  }
  if (c.has_bias) {
    all.push_back(kConvBias);
  }
  return all;
}

// Gradients by those arrays, with cotangents of y and of the sum.
Arrays gradients(const Case& c, const Arrays& a, const std::vector<int>& of,
                 Arrays (*block)(const Case&, const Arrays&)) {
  Arrays primals;
  for (const int i : of) {
    primals.push_back(a[static_cast<size_t>(i)]);
  }
  const auto run = [&](const Arrays& in) {
    Arrays all = a;
    for (size_t i = 0; i < of.size(); ++i) {
      all[static_cast<size_t>(of[i])] = in[i];
    }
    const Arrays out = block(c, all);
    return Arrays{out[0], out[1]};
  };
  const mx::Shape shape = a[kX].shape();
  const Arrays given = {normal(shape, 101, 1.0f, 0.0f, c.dtype), normal(shape, 102, 1.0f, 0.0f, c.residual_dtype)};
  Arrays got = mx::vjp(run, primals, given).second;
  mx::eval(got);
  return got;
}

void expect_same(const Arrays& got, const Arrays& expected, const Case& c) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_TRUE(same_bits(got[i], expected[i])) << "array " << i << " of length " << c.length << " batch " << c.batch;
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    all.push_back({1, 33, 16, 32, 1, 16, 4, dtype});
    all.push_back({2, 64, 21, 42, 3, 8, 3, dtype, false});
    all.push_back({3, 65, 24, 50, 5, 5, 4, dtype, true, dtype});
    all.push_back({1, 131, 40, 83, 2, 16, 2, dtype, true, mx::float32, false});
    all.push_back({2, 97, 33, 70, 4, 16, 4, dtype, true, mx::float32, true, true});
    all.push_back({1, 200, 64, 256, 16, 16, 4, dtype, true, mx::float32, true, true});
  }
  // Without a sum of its own, x would be the residual.
  std::erase_if(all, [](const Case& c) { return !c.has_residual && c.dtype == c.residual_dtype; });
  return all;
}

TEST(TrainingBlock, GivesTheBitsOfItsOperations) {
  for (const Case& c : cases()) {
    const Arrays a = arrays_of(c);
    expect_same(one_node(c, a), operations(c, a), c);
  }
}

TEST(TrainingBlock, GivesTheirGradients) {
  for (const Case& c : cases()) {
    const Arrays a = arrays_of(c);
    const std::vector<int> of = differentiable(c);
    expect_same(gradients(c, a, of, one_node), gradients(c, a, of, operations), c);
  }
}

TEST(TrainingBlock, GivesThoseThatAreAskedFor) {
  const Case c{2, 70, 24, 48, 3, 16, 4, mx::bfloat16};
  const Arrays a = arrays_of(c);
  for (const std::vector<int>& of : {std::vector<int>{kX}, {kXProj, kA}, {kInProj}, {kConvBias, kOutProj, kDtProj}}) {
    expect_same(gradients(c, a, of, one_node), gradients(c, a, of, operations), c);
  }
}

TEST(TrainingBlock, DoesNotDependOnTheThreads) {
  const Case c{1, 150, 64, 128, 8, 16, 4, mx::bfloat16, true, mx::float32, true, true};
  const Arrays a = arrays_of(c);
  const std::vector<int> of = differentiable(c);
  const Arrays expected = gradients(c, a, of, one_node);
  for (const int threads : {1, 2, 5}) {
    set_num_threads(threads);
    expect_same(gradients(c, a, of, one_node), expected, c);
  }
  set_num_threads(0);
}

TEST(TrainingBlock, SaysWhereItCannotBe) {
  const Case c{1, 40, 16, 32, 1, 16, 4, mx::bfloat16};
  const Arrays a = arrays_of(c);
  EXPECT_TRUE(can_train_block(inputs_of(c, a), mx::float32));
  Case few = c;
  few.length = 32;
  EXPECT_FALSE(can_train_block(inputs_of(few, arrays_of(few)), mx::float32));
  Case many = c;
  many.length = 4097;
  EXPECT_FALSE(can_train_block(inputs_of(many, arrays_of(many)), mx::float32));
  Arrays mixed = a;
  mixed[kInProj] = mx::astype(mixed[kInProj], mx::float32);
  EXPECT_FALSE(can_train_block(inputs_of(c, mixed), mx::float32));
  Arrays wrong = a;
  wrong[kOutProj] = mx::zeros({16, 31}, mx::bfloat16);
  EXPECT_EQ(message_of([&] { training_block(inputs_of(c, wrong), mx::float32); }),
            "[training_block] out_proj must be (16, 32) but got (16, 31)");
}

}  // namespace
}  // namespace mamba::ops
