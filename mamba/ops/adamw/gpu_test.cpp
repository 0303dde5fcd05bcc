// The GPU kernel as host C++ against the reference.
#include "mamba/ops/adamw/gpu.h"

#include <vector>

#include "mamba/base/error.h"
#include "mamba/ops/adamw/flat.h"
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
      const AdamWOutputs got = adamw_detail::gpu_update(in, options, cpu);
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

struct FlatCase {
  bool has_average;
  bool holds_views;  // then nothing can be overwritten
};

// Several launches of up to 64 arrays, with and without copies, of odd sizes; some alone, and some empty.
void expect_flat_follows_the_reference(const FlatCase& c) {
  adamw_detail::use_host_kernels();
  const mx::Stream cpu = mx::default_stream(mx::Device::cpu);
  std::vector<AdamWInputs> reference;
  std::vector<FlatAdamW::Item> items;
  const auto shape_of = [](int i) {
    if (i == 4) {
      return mx::Shape{0, 3};
    }
    if (i == 5) {
      return mx::Shape{};
    }
    return i == 140 ? mx::Shape{3, 9001} : mx::Shape{1 + i, 1 + i % 3};
  };
  const auto dtype_of = [](int i) { return i % 2 == 0 && i != 140 ? mx::bfloat16 : mx::float32; };
  for (int i = 0; i < 141; ++i) {
    const auto seed = static_cast<uint64_t>(10 * i);
    const mx::Shape shape = shape_of(i);
    FlatAdamW::Item item{.parameter = normal(shape, seed),
                         .average = c.has_average ? std::optional(normal(shape, seed + 1)) : std::nullopt,
                         .weight_decay = i % 3 == 0 ? 0.1 : 0.0,
                         .copy_dtype = i % 2 == 0 ? std::optional(mx::bfloat16) : std::nullopt,
                         .is_apart = i == 140};
    if (i % 4 < 2) {
      item.m = normal(shape, seed + 2, 0.1f);
      item.v = mx::square(normal(shape, seed + 3, 0.1f));
    }
    reference.push_back({.parameter = item.parameter,
                         .gradient = item.parameter,
                         .m = item.m.value_or(mx::zeros(shape)),
                         .v = item.v.value_or(mx::zeros(shape)),
                         .average = item.average});
    items.push_back(std::move(item));
  }
  std::vector<std::optional<mx::Dtype>> copies;
  std::vector<double> decays;
  for (const FlatAdamW::Item& item : items) {
    copies.push_back(item.copy_dtype);
    decays.push_back(item.weight_decay);
  }
  FlatAdamW flat(std::move(items), cpu);
  ASSERT_EQ(flat.size(), 141);
  std::vector<mx::array> views;
  for (int64_t step = 1; step <= 3; ++step) {
    const mx::array scale(0.5f / static_cast<float>(step));
    AdamWOptions options{.learning_rate = 0.01, .step = step, .average_decay = 0.75};
    std::vector<mx::array> gradients;
    for (int i = 0; i < 141; ++i) {
      gradients.push_back(normal(shape_of(i), static_cast<uint64_t>(2000 * step + i), 1.0f, 0.0f, dtype_of(i)));
      if (c.holds_views) {
        views.insert(views.end(), {flat.m(static_cast<size_t>(i)), flat.parameter(static_cast<size_t>(i))});
      }
    }
    mx::eval(views);
    const std::vector<mx::array> to_send = flat.step(gradients, options, scale);
    EXPECT_EQ(to_send.size(), 5);
    // What is computed with comes out right whether or not all that was given has been evaluated.
    mx::eval(step == 2 ? to_send : std::vector{flat.value(7)});
    for (size_t i = 0; i < gradients.size(); ++i) {
      options.weight_decay = decays[i];
      options.copy_dtype = copies[i];
      AdamWInputs& in = reference[i];
      in.gradient = gradients[i];
      in.gradient_scale = scale;
      const AdamWOutputs want = adamw_reference(in, options, cpu);
      expect_close({flat.parameter(i), flat.m(i), flat.v(i)}, {want.parameter, want.m, want.v}, 4e-6);
      ASSERT_EQ(flat.average(i).has_value(), c.has_average);
      if (c.has_average) {
        expect_close({*flat.average(i)}, {*want.average}, 4e-6);
      }
      EXPECT_EQ(flat.value(i).dtype(), copies[i].value_or(mx::float32));
      EXPECT_EQ(flat.value(i).shape(), in.parameter.shape());
      EXPECT_TRUE(testing::same_bits(flat.value(i), mx::astype(flat.parameter(i), flat.value(i).dtype()))) << i;
      in = {.parameter = want.parameter, .gradient = in.gradient, .m = want.m, .v = want.v, .average = want.average};
    }
  }
}

TEST(FlatAdamW, FollowsTheReference) {
  expect_flat_follows_the_reference({.has_average = false, .holds_views = false});
}

TEST(FlatAdamW, KeepsAverages) {
  expect_flat_follows_the_reference({.has_average = true, .holds_views = false});
}

TEST(FlatAdamW, LeavesWhatOthersHold) {
  adamw_detail::use_host_kernels();
  expect_flat_follows_the_reference({.has_average = true, .holds_views = true});
  const mx::Stream cpu = mx::default_stream(mx::Device::cpu);
  FlatAdamW flat({{.parameter = normal({100}, 1), .copy_dtype = mx::bfloat16}}, cpu);
  mx::array parameter = flat.parameter(0);
  mx::array value = flat.value(0);
  mx::eval(parameter, value);
  const mx::array before = mx::add(parameter, mx::array(0.0f));
  mx::eval(before);
  mx::eval(flat.step({normal({100}, 2)}, {}, mx::array(1.0f)));
  EXPECT_TRUE(testing::same_bits(parameter, before));
  EXPECT_TRUE(testing::same_bits(value, mx::astype(before, mx::bfloat16)));
  EXPECT_FALSE(testing::same_bits(flat.parameter(0), before));
}

TEST(FlatAdamW, OverwritesWhatNobodyHolds) {
  adamw_detail::use_host_kernels();
  const mx::Stream cpu = mx::default_stream(mx::Device::cpu);
  FlatAdamW flat({{.parameter = normal({100}, 1), .copy_dtype = mx::bfloat16}}, cpu);
  const auto place_of = [](mx::array a) {
    a.eval();
    return a.data<float>();
  };
  const float* const m = place_of(flat.m(0));
  const float* const parameter = place_of(flat.parameter(0));
  for (int64_t step = 1; step < 4; ++step) {
    mx::eval(flat.step({normal({100}, 2)}, {.step = step}, mx::array(1.0f)));
    EXPECT_EQ(place_of(flat.m(0)), m);
    EXPECT_EQ(place_of(flat.parameter(0)), parameter);
  }
}

TEST(FlatAdamW, ComplainsAboutWhatDoesNotFit) {
  const mx::Stream cpu = mx::default_stream(mx::Device::cpu);
  const auto make = [&](FlatAdamW::Item item) { return FlatAdamW({std::move(item)}, cpu); };
  EXPECT_THROW(make({.parameter = normal({3}, 1, 1.0f, 0.0f, mx::bfloat16)}), Error);
  EXPECT_THROW(make({.parameter = normal({3}, 1), .m = normal({4}, 1)}), Error);
  EXPECT_THROW(make({.parameter = normal({3}, 1), .copy_dtype = mx::float32}), Error);
  FlatAdamW flat = make({.parameter = normal({3}, 1)});
  EXPECT_THROW(flat.step({}, {}, mx::array(1.0f)), Error);
  EXPECT_THROW(flat.step({normal({4}, 1)}, {}, mx::array(1.0f)), Error);
  EXPECT_THROW(flat.step({normal({3}, 1)}, {}, mx::ones({2})), Error);
  EXPECT_THROW(flat.step({normal({3}, 1)}, {.step = 0}, mx::array(1.0f)), Error);
}

}  // namespace
}  // namespace mamba::ops
