#include "mamba/ops/adamw/adamw.h"

#include <gtest/gtest.h>
#include <mlx/transforms.h>

#include <utility>
#include <vector>

#include "mamba/base/sliced_work.h"
#include "mamba/base/threads.h"
#include "mamba/ops/cpu/test_arrays.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::normal;
using testing::same_bits;
using testing::worst_difference;

AdamWInputs random_inputs(const mx::Shape& shape, mx::Dtype gradient_dtype = mx::float32) {
  return {normal(shape, 1),
          normal(shape, 2, 0.1f, 0.0f, gradient_dtype),
          normal(shape, 3, 0.01f),
          mx::square(normal(shape, 4, 0.01f)),
          std::nullopt,
          mx::array(0.37f)};
}

AdamWOptions some_options() {
  return {.learning_rate = 3e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .step = 7};
}

// A multiply-add that rounds once instead of twice; in m that may cancel.
constexpr double kTolerance = 2e-7;

TEST(AdamW, EqualsReferenceAtAwkwardSizes) {
  for (const mx::Shape& shape :
       {mx::Shape{1}, mx::Shape{7}, mx::Shape{16, 17}, mx::Shape{3, 1, 4}, mx::Shape{40'961}}) {
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
      const AdamWInputs in = random_inputs(shape, dtype);
      AdamWOptions options = some_options();
      options.copy_dtype = mx::bfloat16;
      const AdamWOutputs got = adamw(in, options);
      const AdamWOutputs want = adamw_reference(in, options);
      EXPECT_LE(worst_difference(got.parameter, want.parameter, want.parameter), kTolerance);
      EXPECT_LE(worst_difference(got.m, want.m, want.m), kTolerance);
      EXPECT_LE(worst_difference(got.v, want.v, want.v), kTolerance);
      EXPECT_TRUE(same_bits(*got.copy, mx::astype(got.parameter, mx::bfloat16)));
    }
  }
}

// torch 2.x: torch.optim.AdamW([p], lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1), three steps on the
// gradients 0.5 -1 0.25, 1 2 -0.125, 0 -3 0.0625 from p = 1 -2 0.5.
TEST(AdamW, FollowsPyTorch) {
  mx::array p({1.0f, -2.0f, 0.5f});
  mx::array m = mx::zeros({3});
  mx::array v = mx::zeros({3});
  const std::vector<std::vector<float>> gradients = {
      {0.5f, -1.0f, 0.25f}, {1.0f, 2.0f, -0.125f}, {0.0f, -3.0f, 0.0625f}};
  AdamWOptions options = some_options();
  for (size_t i = 0; i < gradients.size(); ++i) {
    options.step = static_cast<int64_t>(i) + 1;
    const AdamWOutputs out = adamw({p, mx::array(gradients[i].data(), {3}), m, v}, options);
    p = out.parameter;
    m = out.m;
    v = out.v;
  }
  const mx::array want({0.990978718f, -1.99527705f, 0.494707048f});
  EXPECT_LE(worst_difference(p, want, want), 1e-7);
}

TEST(AdamW, KeepsAnAverageOfTheParameters) {
  for (const bool with_copy : {false, true}) {
    AdamWInputs in = random_inputs({1003});
    in.average = normal({1003}, 9);
    AdamWOptions options = some_options();
    options.average_decay = 0.9;
    options.copy_dtype = with_copy ? std::optional(mx::bfloat16) : std::nullopt;
    const AdamWOutputs got = adamw(in, options);
    const AdamWOutputs want = adamw_reference(in, options);
    EXPECT_LE(worst_difference(*got.average, *want.average, *want.average), kTolerance);
    EXPECT_LE(worst_difference(got.parameter, want.parameter, want.parameter), kTolerance);
    EXPECT_EQ(got.copy.has_value(), with_copy);
  }
}

TEST(AdamW, TakesOverMemoryThatNobodyElseHolds) {
  AdamWInputs in = random_inputs({1000});
  const AdamWOutputs want = adamw_reference(in, some_options());
  mx::eval(want.parameter, want.m, want.v, in.v);
  const float* parameter = in.parameter.data<float>();
  const float* m = in.m.data<float>();
  const mx::array held = in.v;
  AdamWOutputs out = adamw(std::move(in), some_options());
  mx::eval(out.parameter, out.m, out.v);
  EXPECT_EQ(out.parameter.data<float>(), parameter);
  EXPECT_EQ(out.m.data<float>(), m);
  EXPECT_NE(out.v.data<float>(), held.data<float>());
  EXPECT_LE(worst_difference(out.parameter, want.parameter, want.parameter), kTolerance);
}

TEST(AdamW, SameBitsForAnyNumberOfThreads) {
  const AdamWInputs in = random_inputs({100'003});
  const AdamWOutputs many = adamw(in, some_options());
  mx::eval(many.parameter);
  set_num_threads(1);
  const AdamWOutputs one = adamw(in, some_options());
  mx::eval(one.parameter);
  set_num_threads(0);
  EXPECT_TRUE(same_bits(many.parameter, one.parameter));
}

TEST(AdamW, SameBitsWhenDoneLater) {
  // The least that is handed over, and not a whole number of slices.
  for (const int count : {1000, 64 * 1024, 100'003}) {
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
      AdamWInputs in = random_inputs({count}, dtype);
      in.average = normal({count}, 9);
      AdamWOptions options = some_options();
      options.copy_dtype = mx::bfloat16;
      const AdamWOutputs want = adamw(in, options);
      options.later_rank = 1;
      AdamWOutputs got = adamw(in, options);
      ASSERT_EQ(got.begun.has_value(), count >= 64 * 1024);
      if (got.begun) {
        got.begun->eval();
        // Some of it beside a loop.
        { const SlicesBeside slices(64 * 7); }
      }
      EXPECT_TRUE(same_bits(*got.copy, *want.copy));
      EXPECT_TRUE(same_bits(got.parameter, want.parameter));
      EXPECT_TRUE(same_bits(got.m, want.m));
      EXPECT_TRUE(same_bits(got.v, want.v));
      EXPECT_TRUE(same_bits(*got.average, *want.average));
    }
  }
}

TEST(AdamW, DoneLaterKeepsItsMemoryAsLongAsNeeded) {
  const auto later = [](const mx::Shape& shape) {
    AdamWInputs in = random_inputs(shape);
    for (mx::array* a : {&in.parameter, &in.gradient, &in.m, &in.v}) {
      *a = mx::transpose(mx::contiguous(mx::transpose(*a)));  // is copied
    }
    AdamWOptions options = some_options();
    options.later_rank = 0;
    AdamWOutputs out = adamw(std::move(in), options);
    out.begun->eval();
    out.begun.reset();
    return out;
  };
  { const AdamWOutputs dropped = later({300, 301}); }
  const AdamWOutputs out = later({300, 301});
  const AdamWOutputs want = adamw(random_inputs({300, 301}), some_options());
  EXPECT_TRUE(same_bits(out.parameter, want.parameter));
  { const SlicesBeside what_was_dropped(64 * 100); }
}

TEST(AdamW, DoneLaterTakesMemoryOverFromTheStepBefore) {
  constexpr int kCount = 70'000;
  AdamWInputs in = random_inputs({kCount});
  AdamWOptions options = some_options();
  options.later_rank = 0;
  AdamWOutputs out = adamw(std::move(in), options);
  mx::eval(*out.begun);
  out.begun.reset();
  mx::eval(out.m);
  const float* const before = out.m.data<float>();
  AdamWOutputs next = adamw({.parameter = std::move(out.parameter),
                             .gradient = normal({kCount}, 5),
                             .m = std::move(out.m),
                             .v = std::move(out.v)},
                            options);
  mx::eval(next.m);
  EXPECT_EQ(next.m.data<float>(), before);
}

TEST(AdamW, ReadsArraysThatAreNotContiguous) {
  AdamWInputs in = random_inputs({6, 5});
  AdamWInputs turned = in;
  turned.parameter = mx::transpose(mx::contiguous(mx::transpose(in.parameter)));
  turned.gradient = mx::transpose(mx::contiguous(mx::transpose(in.gradient)));
  EXPECT_TRUE(same_bits(adamw(in, some_options()).parameter, adamw(turned, some_options()).parameter));
}

TEST(AdamW, RefusesWhatDoesNotFit) {
  const AdamWInputs in = random_inputs({4, 3});
  AdamWInputs wrong = in;
  wrong.gradient = normal({3, 4}, 1);
  EXPECT_EQ(message_of([&] { adamw(wrong, some_options()); }), "[adamw] gradient must be (4, 3) but got (3, 4)");
  wrong = in;
  wrong.m = mx::astype(in.m, mx::bfloat16);
  EXPECT_EQ(message_of([&] { adamw(wrong, some_options()); }),
            "[adamw] parameter, m and v must be float32 but one is bfloat16");
  AdamWOptions options = some_options();
  options.step = 0;
  EXPECT_EQ(message_of([&] { adamw(in, options); }), "[adamw] step must be at least 1 but is 0");
}

}  // namespace
}  // namespace mamba::ops
