// The GPU kernel as host C++ against plain operations.
#include "mamba/ops/accumulate/gpu.h"

#include "mamba/ops/accumulate/gpu_host.h"
#include "mamba/ops/gpu/test_compare.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::normal;
using testing::same_bits;

TEST(AccumulateGpu, AddsWhateverTheDtypeAndTheStrides) {
  accumulate_detail::use_host_kernels();
  const mx::Stream cpu = mx::default_stream(mx::Device::cpu);
  for (const mx::Shape& shape : std::vector<mx::Shape>{{1}, {7}, {1024}, {3, 1025}, {0}, {}}) {
    for (const mx::Dtype dtype : {mx::float32, mx::bfloat16, mx::float16}) {
      const mx::array sum = normal(shape, 1);
      const mx::array value = normal(shape, 2, 1.0f, 0.0f, dtype);
      EXPECT_TRUE(same_bits(accumulate_detail::gpu_add(sum, value, cpu), mx::add(sum, mx::astype(value, mx::float32))));
    }
  }
  const mx::array sum = normal({33, 70}, 1);
  const mx::array value = mx::transpose(normal({70, 33}, 2));
  EXPECT_TRUE(same_bits(accumulate_detail::gpu_add(sum, value, cpu), mx::add(sum, value)));
}

}  // namespace
}  // namespace mamba::ops
