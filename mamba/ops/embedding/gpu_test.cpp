// The GPU kernel as host C++ against the reference.
#include "mamba/ops/embedding/gpu.h"

#include "mamba/ops/embedding/embedding_gradient.h"
#include "mamba/ops/embedding/gpu_host.h"
#include "mamba/ops/gpu/test_compare.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::expect_close;
using testing::normal;

TEST(EmbeddingGpu, AgreesWithTheReference) {
  embedding_detail::use_host_kernels();
  const mx::Stream cpu = mx::default_stream(mx::Device::cpu);
  for (const int width : {1, 7, 130}) {
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
      for (const int count : {1, 2, 111}) {
        // Some tokens many times, some never, some outside the table.
        const mx::array tokens =
            mx::astype(mx::random::randint(-2, 14, {1, count}, mx::int32, mx::random::key(5)), mx::int32);
        const mx::array dy = normal({1, count, width}, 1, 1.0f, 0.0f, dtype);
        const mx::array base = normal({11, width}, 2, 1.0f, 0.0f, dtype);
        // Rounded once, from sums in another order.
        const mx::array narrow = embedding_detail::gpu_gradient(tokens, dy, 11, base, dtype, cpu);
        EXPECT_EQ(narrow.dtype(), dtype);
        expect_close({narrow}, {embedding_gradient_reference(tokens, dy, 11, base, mx::float32, cpu)},
                     dtype == mx::float32   ? 2e-6
                     : dtype == mx::float16 ? 0x1p-11
                                            : 0x1p-8);
        expect_close({embedding_detail::gpu_gradient(tokens, dy, 11, base, mx::float32, cpu),
                      embedding_detail::gpu_gradient(tokens, dy, 11, std::nullopt, mx::float32, cpu)},
                     {embedding_gradient_reference(tokens, dy, 11, base, mx::float32, cpu),
                      embedding_gradient_reference(tokens, dy, 11, std::nullopt, mx::float32, cpu)},
                     2e-6);
      }
    }
  }
}

TEST(EmbeddingGpu, TakesSlicesAndNothing) {
  embedding_detail::use_host_kernels();
  const mx::Stream cpu = mx::default_stream(mx::Device::cpu);
  const mx::array tokens = mx::slice(mx::array({3, 9, 1, 9, 3, 9}, mx::int32), {0}, {6}, {2});
  const mx::array dy = mx::transpose(normal({5, 3}, 1));
  const mx::array base = mx::transpose(normal({5, 4}, 2));
  expect_close({embedding_detail::gpu_gradient(tokens, dy, 4, base, mx::float32, cpu)},
               {embedding_gradient_reference(tokens, dy, 4, base, mx::float32, cpu)}, 2e-6);
  const mx::array none = mx::zeros({0}, mx::int32);
  expect_close({embedding_detail::gpu_gradient(none, mx::zeros({0, 5}), 4, base, mx::float32, cpu)}, {base}, 1e-12);
}

}  // namespace
}  // namespace mamba::ops
