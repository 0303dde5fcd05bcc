// MLX would widen the value in a pass of its own.
#include "mamba/ops/accumulate/gpu.h"

#include <mlx/ops.h>

#include "mamba/ops/gpu/kernel.h"

namespace mamba::embedded {
std::string_view gpu_accumulate_add();
}  // namespace mamba::embedded

namespace mamba::ops::accumulate_detail {

namespace mx = mlx::core;

mx::array gpu_add(const mx::array& sum, const mx::array& value, const mx::Stream& stream) {
  static const gpu::Kernel kernel("mamba_accumulate_add", embedded::gpu_accumulate_add(), {"sum", "value"}, {"out"});
  constexpr int kThreads = 256;
  constexpr int kPer = 4;
  const auto count = static_cast<int>(sum.size());
  if (count == 0) {
    return sum;
  }
  const auto flat = [&](const mx::array& a) { return gpu::contiguous(mx::reshape(a, {count}, stream), stream); };
  const mx::array out = kernel({flat(sum), flat(value)}, {{count}}, {mx::float32},
                               {{(count + kThreads * kPer - 1) / (kThreads * kPer), 1, 1}, kThreads},
                               {{"kThreads", kThreads}, {"kPer", kPer}}, stream)[0];
  return mx::reshape(out, sum.shape(), stream);
}

}  // namespace mamba::ops::accumulate_detail
