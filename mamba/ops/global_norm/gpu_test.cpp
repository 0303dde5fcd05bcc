// The GPU kernel as host C++ against the reference.
#include "mamba/ops/global_norm/gpu.h"

#include <vector>

#include "mamba/ops/global_norm/global_norm.h"
#include "mamba/ops/global_norm/gpu_host.h"
#include "mamba/ops/gpu/test_compare.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::normal;

TEST(GlobalNormGpu, AgreesWithTheReference) {
  global_norm_detail::use_host_kernels();
  const std::vector<mx::array> arrays = {normal({1}, 1), normal({3, 1100}, 2, 1.0f, 0.0f, mx::bfloat16), normal({}, 3),
                                         normal({0, 4}, 4), mx::transpose(normal({70, 33}, 5))};
  const mx::Stream cpu = mx::default_stream(mx::Device::cpu);
  testing::expect_close({global_norm_detail::gpu_norm(arrays, cpu)}, {global_norm_reference(arrays, cpu)}, 1e-6);
  std::vector<mx::array> many;
  for (int i = 0; i < 30; ++i) {
    many.push_back(
        normal({1 + 150 * i, 2}, static_cast<uint64_t>(i), 1.0f, 0.0f, i % 4 == 1 ? mx::float16 : mx::float32));
  }
  testing::expect_close({global_norm_detail::gpu_norm(many, cpu)}, {global_norm_reference(many, cpu)}, 1e-6);
  EXPECT_EQ(global_norm_detail::gpu_norm({}, cpu).item<float>(), 0.0f);
}

}  // namespace
}  // namespace mamba::ops
