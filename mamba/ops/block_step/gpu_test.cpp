// The kernels as host C++ against the reference.
#include "mamba/ops/block_step/gpu.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>

#include <vector>

#include "mamba/ops/block_step/gpu_host.h"
#include "mamba/ops/gpu/test_compare.h"
#include "mamba/ops/rms_norm/reference.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::expect_close;
using testing::normal;

constexpr float kEps = 1e-5f;

mx::Stream cpu() {
  return mx::default_stream(mx::Device::cpu);
}

struct Case {
  int batch, width, channels, states, rank;
  mx::Dtype dtype;
};

struct Problem {
  mx::array h, conv, ssm;
  BlockStepWeights weights;
};

Problem problem_of(const Case& c, bool has_bias = true) {
  step::use_host_kernels();
  const auto scaled = [&](const mx::Shape& shape, int seed) {
    return normal(shape, seed, 1.0f / std::sqrt(static_cast<float>(shape.back())), 0.0f, c.dtype);
  };
  const mx::array A = mx::negative(mx::exp(normal({c.channels, c.states}, 9)));
  return {.h = normal({c.batch, c.width}, 1),
          .conv = normal({c.batch, 3, c.channels}, 2, 1.0f, 0.0f, c.dtype),
          .ssm = normal({c.batch, c.channels, c.states}, 3),
          .weights = {.norm = normal({c.width}, 4, 0.3f, 1.0f),
                      .eps = kEps,
                      .in_proj = scaled({2 * c.channels, c.width}, 5),
                      .mixer = {.conv_weight = normal({c.channels, 4}, 6),
                                .conv_bias = has_bias ? std::optional(normal({c.channels}, 7)) : std::nullopt,
                                .x_proj = scaled({c.rank + 2 * c.states, c.channels}, 8),
                                .dt_proj = scaled({c.channels, c.rank}, 10),
                                .dt_bias = normal({c.channels}, 11, 0.5f, -2.0f),
                                .A = A,
                                .D = normal({c.channels}, 12)},
                      .out_proj = scaled({c.width, c.channels}, 13)}};
}

// Products in another order, rounded to the dtype in between.
double tolerance(const Case& c) {
  return c.dtype == mx::bfloat16 ? 0x1p-6 : 2e-5;
}

const std::vector<Case> kCases = {
    {1, 48, 96, 16, 3, mx::float32}, {1, 5, 7, 16, 1, mx::float32},     {3, 37, 41, 5, 6, mx::float32},
    {6, 40, 70, 16, 9, mx::float32}, {1, 64, 130, 16, 4, mx::bfloat16}, {5, 33, 64, 9, 5, mx::bfloat16},
};

// The large products left to others: the block is the sum of its parts.
TEST(BlockStepGpu, TheMixerAloneAgreesWithTheReference) {
  for (const Case& c : kCases) {
    for (const int threads : {64, 256}) {
      const Problem p = problem_of(c, c.batch != 3);
      const BlockStepWeights& w = p.weights;
      const mx::array normed = rms_norm_reference(p.h, w.norm, kEps, cpu());
      const auto product = [&](const mx::array& x, const mx::array& weight) {
        return mx::astype(mx::matmul(mx::astype(x, mx::float32), mx::transpose(mx::astype(weight, mx::float32))),
                          c.dtype);
      };
      // Any strides will do.
      const mx::array xz = mx::transpose(mx::contiguous(mx::transpose(product(normed, w.in_proj))));
      const StepOutputs got = step::mixer(xz, p.conv, p.ssm, w.mixer, threads, cpu());
      const mx::array h = mx::add(p.h, mx::astype(product(got.y, w.out_proj), mx::float32));
      const StepOutputs want = block_step_reference(p.h, p.conv, p.ssm, p.weights, cpu());
      expect_close({h, got.conv, got.ssm}, {want.y, want.conv, want.ssm}, tolerance(c));
    }
  }
}

TEST(BlockStepGpu, BadShapesAreNamed) {
  const Problem p = problem_of(kCases[0]);
  EXPECT_NE(message_of([&] { mixer_step(p.h, p.conv, p.ssm, p.weights.mixer, cpu()); }).find("xz"), std::string::npos);
}

}  // namespace
}  // namespace mamba::ops
