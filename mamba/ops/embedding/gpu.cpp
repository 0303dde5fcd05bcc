// Tokens are sorted, so that each row's sum is the work of one group, without atomics and the same every time.
#include "mamba/ops/embedding/gpu.h"

#include <mlx/ops.h>

#include "mamba/ops/gpu/kernel.h"

namespace mamba::embedded {
std::string_view gpu_embedding_gradient();
}  // namespace mamba::embedded

namespace mamba::ops::embedding_detail {

namespace mx = mlx::core;

mx::array gpu_gradient(const mx::array& tokens, const mx::array& dy, int rows, const std::optional<mx::array>& base,
                       mx::Dtype dtype, const mx::Stream& stream) {
  static const gpu::Kernel kernel("mamba_embedding_gradient", embedded::gpu_embedding_gradient(),
                                  {"sorted", "order", "dy", "base"}, {"out"});
  constexpr int kThreads = 128;
  const int width = dy.shape(-1);
  const auto count = static_cast<int>(tokens.size());
  if (count == 0 || width == 0 || rows == 0) {
    return base ? mx::astype(*base, dtype, stream) : mx::zeros({rows, width}, dtype, stream);
  }
  const mx::array flat = mx::reshape(tokens, {count}, stream);
  const mx::array order = mx::view(mx::argsort(flat, stream), mx::int32, stream);
  const mx::array sorted = mx::take(flat, order, stream);
  const mx::array changes = gpu::contiguous(mx::reshape(dy, {count, width}, stream), stream);
  return kernel({sorted, order, changes, base ? gpu::contiguous(*base, stream) : changes}, {{rows, width}}, {dtype},
                {{rows, 1, 1}, kThreads}, {{"kThreads", kThreads}, {"kHasBase", base.has_value()}, {"T", dtype}},
                stream)[0];
}

}  // namespace mamba::ops::embedding_detail
