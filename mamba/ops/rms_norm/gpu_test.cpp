// The GPU kernels as host C++ against the reference: values and gradients.
#include "mamba/ops/rms_norm/gpu.h"

#include <vector>

#include "mamba/ops/gpu/test_compare.h"
#include "mamba/ops/rms_norm/gpu_host.h"
#include "mamba/ops/rms_norm/reference.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::expect_close;
using testing::in_float64;
using testing::normal;
using testing::values_and_gradients;

constexpr float kEps = 1e-5f;

mx::Stream cpu() {
  return mx::default_stream(mx::Device::cpu);
}

double step_of(mx::Dtype dtype) {
  return dtype == mx::bfloat16 ? 0x1p-8 : dtype == mx::float16 ? 0x1p-11 : 0.0;
}

// 128 and 256 threads, full and ragged rows, more rows than groups.
const std::vector<mx::Shape> kShapes = {{3, 5, 1}, {2, 100}, {1, 1, 129}, {2, 3, 768}, {2, 1100}, {900, 7}, {37}};

TEST(RmsNormGpu, AloneAgreesWithTheReferenceInFloat64) {
  norm::use_host_kernels();
  for (const mx::Shape& shape : kShapes) {
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16}) {
      const std::vector<mx::array> primals = {normal(shape, 1, 2.0f, 0.5f, dtype), normal({shape.back()}, 2)};
      const std::vector<mx::array> cotangents = {normal(shape, 3, 1.0f, 0.0f, dtype)};
      const auto kernel = [](const std::vector<mx::array>& in) {
        return std::vector{norm::gpu_norm(in[0], std::nullopt, in[1], kEps, std::nullopt, cpu()).first};
      };
      const auto reference = [](const std::vector<mx::array>& in) {
        return std::vector{rms_norm_reference(in[0], in[1], kEps, cpu())};
      };
      expect_close(values_and_gradients(kernel, primals, cotangents),
                   values_and_gradients(reference, in_float64(primals), in_float64(cotangents)), 2e-5 + step_of(dtype));
    }
  }
}

TEST(RmsNormGpu, WithResidualAgreesWithTheReference) {
  norm::use_host_kernels();
  for (const mx::Shape& shape : kShapes) {
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
      for (const mx::Dtype wide : {mx::float32, dtype}) {
        for (const bool has_residual : {true, false}) {
          std::vector<mx::array> primals = {normal(shape, 1, 1.0f, 0.5f, dtype), normal({shape.back()}, 2)};
          if (has_residual) {
            primals.push_back(normal(shape, 4, 1.0f, 0.0f, wide));
          }
          const std::vector<mx::array> cotangents = {normal(shape, 3, 1.0f, 0.0f, dtype),
                                                     normal(shape, 5, 1.0f, 0.0f, wide)};
          const auto residual = [&](const std::vector<mx::array>& in) {
            return has_residual ? std::optional(in[2]) : std::nullopt;
          };
          const auto kernel = [&](const std::vector<mx::array>& in) -> std::vector<mx::array> {
            const auto out = norm::gpu_norm(in[0], residual(in), in[1], kEps, wide, cpu());
            return {out.first, out.second};
          };
          const auto reference = [&](const std::vector<mx::array>& in) -> std::vector<mx::array> {
            const auto out = rms_norm_add_reference(in[0], residual(in), in[1], kEps, wide, cpu());
            return {out.first, out.second};
          };
          // The sum is rounded before it is normalised: what the reference makes of these dtypes is what is wanted.
          expect_close(values_and_gradients(kernel, primals, cotangents),
                       values_and_gradients(reference, primals, cotangents), 2e-5 + 2 * step_of(dtype));
        }
      }
    }
  }
}

TEST(RmsNormGpu, ItsResultIsMadeAgainFromTheSum) {
  norm::use_host_kernels();
  for (const mx::Shape& shape : kShapes) {
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
      for (const mx::Dtype wide : {mx::float32, dtype}) {
        const mx::array x = normal(shape, 1, 1.0f, 0.5f, dtype);
        const mx::array weight = normal({shape.back()}, 2);
        const auto [y, sum] = norm::gpu_norm(x, normal(shape, 4, 1.0f, 0.0f, wide), weight, kEps, wide, cpu());
        const mx::array again = norm::gpu_norm_again(sum, weight, kEps, dtype, cpu());
        EXPECT_EQ(again.dtype(), dtype);
        EXPECT_TRUE(testing::same_bits(again, y));
      }
    }
  }
}

}  // namespace
}  // namespace mamba::ops
