// The GPU kernel as host C++ against the reference.
#include "mamba/ops/adamw/gpu.h"

#include <vector>

#include "mamba/ops/adamw/gpu_host.h"
#include "mamba/ops/gpu/test_compare.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::expect_close;
using testing::normal;

TEST(AdamWGpu, AgreesWithTheReference) {
  adamw_detail::use_host_kernels();
  const mx::Stream cpu = mx::default_stream(mx::Device::cpu);
  for (const mx::Shape& shape : std::vector<mx::Shape>{{1}, {7}, {1024}, {3, 1025}, {0}, {}}) {
    for (const int variant : {0, 1, 2, 3}) {
      AdamWInputs in = {normal(shape, 1), normal(shape, 2, 1.0f, 0.0f, variant == 1 ? mx::bfloat16 : mx::float32),
                        normal(shape, 3, 0.1f), mx::square(normal(shape, 4, 0.1f))};
      AdamWOptions options{.learning_rate = 0.01, .weight_decay = 0.1, .step = 1 + 40 * variant};
      if (variant >= 2) {
        in.gradient_scale = mx::array(0.25f);
        in.average = normal(shape, 5);
        options.average_decay = 0.9;
        options.copy_dtype = variant == 2 ? mx::bfloat16 : mx::float16;
      }
      const AdamWOutputs got = adamw_detail::gpu_update({in}, {options}, cpu)[0];
      const AdamWOutputs want = adamw_reference(in, options, cpu);
      expect_close({got.parameter, got.m, got.v}, {want.parameter, want.m, want.v}, 2e-6);
      ASSERT_EQ(got.average.has_value(), want.average.has_value());
      if (got.average) {
        expect_close({*got.average}, {*want.average}, 2e-6);
      }
      ASSERT_EQ(got.copy.has_value(), want.copy.has_value());
      if (got.copy) {
        EXPECT_EQ(got.copy->dtype(), *options.copy_dtype);
        expect_close({*got.copy}, {got.parameter}, variant == 2 ? 0x1p-8 : 0x1p-11);
      }
    }
  }
}

// Arrays that share launches, and some that cannot.
TEST(AdamWGpu, ManyArraysGiveWhatEachGivesAlone) {
  adamw_detail::use_host_kernels();
  const mx::Stream cpu = mx::default_stream(mx::Device::cpu);
  std::vector<AdamWInputs> in;
  std::vector<AdamWOptions> options;
  const mx::array scale(0.5f);
  for (int i = 0; i < 27; ++i) {
    const mx::Shape shape = i == 4 ? mx::Shape{0} : mx::Shape{1 + i * i * 3, 2};
    const auto seed = static_cast<uint64_t>(10 * i);
    in.push_back({normal(shape, seed), normal(shape, seed + 1, 1.0f, 0.0f, i % 2 == 0 ? mx::bfloat16 : mx::float32),
                  normal(shape, seed + 2), mx::square(normal(shape, seed + 3))});
    in.back().gradient_scale = scale;
    options.push_back({.weight_decay = i % 3 == 0 ? 0.1 : 0.0, .step = 3});
    if (i % 2 == 0) {
      options.back().copy_dtype = mx::bfloat16;
    }
  }
  const std::vector<AdamWOutputs> got = adamw_detail::gpu_update(in, options, cpu);
  ASSERT_EQ(got.size(), in.size());
  for (size_t i = 0; i < in.size(); ++i) {
    const AdamWOutputs alone = adamw_detail::gpu_update({in[i]}, {options[i]}, cpu)[0];
    EXPECT_TRUE(testing::same_bits(got[i].parameter, alone.parameter)) << i;
    EXPECT_TRUE(testing::same_bits(got[i].m, alone.m) && testing::same_bits(got[i].v, alone.v)) << i;
    ASSERT_EQ(got[i].copy.has_value(), options[i].copy_dtype.has_value());
    if (got[i].copy) {
      EXPECT_TRUE(testing::same_bits(*got[i].copy, *alone.copy)) << i;
    }
  }
}

}  // namespace
}  // namespace mamba::ops
