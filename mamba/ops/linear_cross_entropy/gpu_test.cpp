// The GPU path on the host against the reference: values and gradients.
#include "mamba/ops/linear_cross_entropy/gpu.h"

#include <cmath>
#include <vector>

#include "mamba/ops/accumulate/gpu_host.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/gpu/test_compare.h"
#include "mamba/ops/linear_cross_entropy/gpu_host.h"
#include "mamba/ops/linear_cross_entropy/linear_cross_entropy.h"
#include "mamba/ops/product/gpu_host.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::expect_close;
using testing::normal;
using testing::values_and_gradients;

mx::array gpu(const mx::array& x, const mx::array& weight, const mx::array& targets, int piece) {
  linear_cross_entropy_detail::use_host_kernels();
  return linear_cross_entropy_detail::gpu_log_probability(x, weight, targets, -100, piece,
                                                          mx::default_stream(mx::Device::cpu));
}

// float32 once as one product, once as three.
class LinearCrossEntropyGpuProducts : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    accumulate_detail::use_host_kernels();
    product_detail::use_host_kernels();
    take_gpu_paths(GetParam());
  }
  void TearDown() override { take_gpu_paths(false); }
};
INSTANTIATE_TEST_SUITE_P(Split, LinearCrossEntropyGpuProducts, ::testing::Bool());

TEST_P(LinearCrossEntropyGpuProducts, AgreesWithTheReferenceForAnyPieces) {
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
    for (const int words : {1, 300, 1050}) {
      std::vector<int32_t> ids(14);
      for (size_t i = 0; i < ids.size(); ++i) {
        ids[i] = i % 5 == 2 ? -100 : static_cast<int32_t>(i * 7919 % static_cast<size_t>(words));
      }
      const mx::array targets(ids.begin(), {2, 7}, mx::int32);
      const std::vector<mx::array> primals = {normal({2, 7, 24}, 1, 1.0f, 0.0f, dtype),
                                              normal({words, 24}, 2, 0.5f, 0.0f, dtype)};
      const std::vector<mx::array> cotangents = {normal({2, 7}, 3)};
      const std::vector<mx::array> want = values_and_gradients(
          [&](const std::vector<mx::array>& in) {
            return std::vector{linear_log_probability_reference(
                mx::astype(in[0], mx::float32), mx::astype(in[1], mx::float32), targets, -100, mx::Device::cpu)};
          },
          primals, cotangents);
      for (const int piece : {100, 14, 5, 1}) {
        const std::vector<mx::array> got = values_and_gradients(
            [&](const std::vector<mx::array>& in) { return std::vector{gpu(in[0], in[1], targets, piece)}; }, primals,
            cotangents);
        // The gradient of the logits is rounded to 16 bits, and so are its products.
        expect_close(got, want, dtype == mx::float32 ? 1e-5 : 0x1p-6);
      }
    }
  }
}

TEST_P(LinearCrossEntropyGpuProducts, ValueAndGradientsAtOnceAgreeWithTheReference) {
  linear_cross_entropy_detail::use_host_kernels();
  const mx::Stream cpu = mx::default_stream(mx::Device::cpu);
  for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
    for (const int words : {1, 300, 304, 1050, 4099, 4104}) {
      std::vector<int32_t> ids(14);
      for (size_t i = 0; i < ids.size(); ++i) {
        ids[i] = i % 5 == 2 ? -100 : static_cast<int32_t>(i * 7919 % static_cast<size_t>(words));
      }
      const mx::array targets(ids.begin(), {2, 7}, mx::int32);
      const mx::array x = normal({2, 7, 24}, 1, 1.0f, 0.0f, dtype);
      const mx::array weight = normal({words, 24}, 2, 2.0f, 0.0f, dtype);
      const mx::array cotangent = normal({2, 7}, 3);
      const std::vector<mx::array> want = values_and_gradients(
          [&](const std::vector<mx::array>& in) {
            return std::vector{linear_log_probability_reference(
                mx::astype(in[0], mx::float32), mx::astype(in[1], mx::float32), targets, -100, mx::Device::cpu)};
          },
          {x, weight}, {cotangent});
      for (const int piece : {100, 14, 5, 1}) {
        const auto got =
            linear_cross_entropy_detail::gpu_gradients(x, weight, targets, cotangent, -100, piece, true, cpu);
        // Logits keep 16 bits or more, whatever the dtype.
        expect_close({got.log_probabilities}, {want[0]}, dtype == mx::float32 ? 1e-5 : 1e-4);
        expect_close({got.x, *got.weight}, {want[1], want[2]}, dtype == mx::float32 ? 1e-5 : 0x1p-6);
      }
      const auto frozen =
          linear_cross_entropy_detail::gpu_gradients(x, weight, targets, cotangent, -100, 5, false, cpu);
      EXPECT_FALSE(frozen.weight.has_value());
      expect_close({frozen.x}, {want[1]}, dtype == mx::float32 ? 1e-5 : 0x1p-6);
    }
  }
}

TEST(LinearCrossEntropyGpu, GradientsOfRowsThatDoNotCountAreZero) {
  linear_cross_entropy_detail::use_host_kernels();
  const std::vector<int32_t> ids = {-100, 3, 4, 900, -1};
  const mx::array targets(ids.begin(), {5}, mx::int32);
  const mx::array counts = mx::reshape(mx::array({false, true, true, false, false}), {5, 1});
  const mx::array x = mx::where(counts, normal({5, 8}, 1), mx::array(NAN));
  const auto got = linear_cross_entropy_detail::gpu_gradients(x, normal({40, 8}, 2), targets, mx::ones({5}), -100, 2,
                                                              true, mx::default_stream(mx::Device::cpu));
  mx::eval(got.log_probabilities);
  const float* values = got.log_probabilities.data<float>();
  EXPECT_EQ(values[0], 0.0f);
  EXPECT_LT(values[1], 0.0f);
  EXPECT_TRUE(std::isnan(values[3]) && std::isnan(values[4]));
  EXPECT_TRUE(mx::all(mx::isfinite(got.x)).item<bool>());
  EXPECT_TRUE(mx::all(mx::isfinite(*got.weight)).item<bool>());
  EXPECT_EQ(mx::sum(mx::abs(mx::slice(got.x, {3, 0}, {5, 8}))).item<float>(), 0.0f);
}

TEST(LinearCrossEntropyGpu, RowsThatDoNotCountReachNothing) {
  const std::vector<int32_t> ids = {-100, 3, 4, 900, -1};
  const mx::array targets(ids.begin(), {5}, mx::int32);
  mx::array x = normal({5, 8}, 1);
  const mx::array weight = normal({40, 8}, 2);
  const mx::array counts = mx::reshape(mx::array({false, true, true, false, false}), {5, 1});
  x = mx::where(counts, x, mx::array(NAN));
  const std::vector<mx::array> got =
      values_and_gradients([&](const std::vector<mx::array>& in) { return std::vector{gpu(in[0], in[1], targets, 2)}; },
                           {x, weight}, {mx::ones({5})});
  const float* values = got[0].data<float>();
  EXPECT_EQ(values[0], 0.0f);
  EXPECT_LT(values[1], 0.0f);
  EXPECT_TRUE(std::isnan(values[3]) && std::isnan(values[4]));
  EXPECT_TRUE(mx::all(mx::isfinite(got[1])).item<bool>());
  EXPECT_TRUE(mx::all(mx::isfinite(got[2])).item<bool>());
  EXPECT_EQ(mx::sum(mx::abs(mx::slice(got[1], {3, 0}, {5, 8}))).item<float>(), 0.0f);
}

}  // namespace
}  // namespace mamba::ops
