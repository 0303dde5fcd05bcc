#include "mamba/ops/global_norm/gpu.h"

#include <mlx/ops.h>

#include <algorithm>

#include "mamba/ops/gpu/kernel.h"

namespace mamba::embedded {
std::string_view gpu_norm_squares();
}  // namespace mamba::embedded

namespace mamba::ops::global_norm_detail {

namespace mx = mlx::core;

mx::array gpu_norm(const std::vector<mx::array>& arrays, const mx::Stream& stream) {
  static const gpu::Kernel kernel("mamba_norm_squares", embedded::gpu_norm_squares(), {"numbers", "count"}, {"part"});
  constexpr int kThreads = 256;
  constexpr int kMostGroups = 528;  // what fills a large GPU; each has at least four numbers a thread otherwise
  std::vector<mx::array> parts;
  for (const mx::array& a : arrays) {
    const auto count = static_cast<int>(a.size());
    if (count == 0) {
      continue;
    }
    const int groups = std::clamp(count / (kThreads * 4), 1, kMostGroups);
    const mx::array whole = gpu::contiguous(a.ndim() == 0 ? mx::reshape(a, {1}, stream) : a, stream);
    parts.push_back(kernel({whole, mx::array({count})}, {{groups}}, {mx::float32}, {{groups, 1, 1}, kThreads},
                           {{"kThreads", kThreads}}, stream)[0]);
  }
  if (parts.empty()) {
    return mx::array(0.0f);
  }
  return mx::sqrt(mx::sum(mx::concatenate(parts, 0, stream), stream), stream);
}

}  // namespace mamba::ops::global_norm_detail
