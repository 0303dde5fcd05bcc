// A launch costs the host more than a small array costs the device, so arrays of one dtype share launches.
#include "mamba/ops/global_norm/gpu.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <algorithm>
#include <map>

#include "mamba/ops/gpu/kernel.h"

namespace mamba::embedded {
std::string_view gpu_norm_squares();
}  // namespace mamba::embedded

namespace mamba::ops::global_norm_detail {

namespace mx = mlx::core;

namespace {

constexpr size_t kMany = 12;  // Metal allows a kernel 31 arrays, shapes among them

const gpu::Kernel& kernel_for(size_t arrays) {
  const auto make = [](size_t count) {
    std::string source(embedded::gpu_norm_squares());
    std::vector<std::string> inputs;
    for (size_t i = 0; i < count; ++i) {
      source += fmt::format("MAMBA_ADD_SQUARES({0}, numbers{0}_shape[0])\n", i);
      inputs.push_back(fmt::format("numbers{}", i));
    }
    return gpu::Kernel(fmt::format("mamba_norm_squares{}", count), source + "MAMBA_SUM_SQUARES\n", inputs, {"part"});
  };
  static const gpu::Kernel one = make(1);
  static const gpu::Kernel many = make(kMany);
  return arrays == 1 ? one : many;
}

}  // namespace

mx::array gpu_norm(const std::vector<mx::array>& arrays, const mx::Stream& stream) {
  constexpr int kThreads = 256;
  constexpr int kMostGroups = 528;  // what fills a large GPU; each has at least four numbers a thread otherwise
  std::map<mx::Dtype::Val, std::vector<mx::array>> flat;
  for (const mx::array& a : arrays) {
    const auto count = static_cast<int>(a.size());
    if (count > 0) {
      flat[a.dtype().val()].push_back(mx::reshape(gpu::contiguous(a, stream), {count}, stream));
    }
  }
  std::vector<mx::array> parts;
  for (const auto& [dtype, all] : flat) {
    for (size_t begin = 0; begin < all.size();) {
      const size_t count = all.size() - begin >= kMany ? kMany : 1;
      const std::vector<mx::array> some(all.begin() + static_cast<int64_t>(begin),
                                        all.begin() + static_cast<int64_t>(begin + count));
      size_t largest = 0;
      for (const mx::array& a : some) {
        largest = std::max(largest, a.size());
      }
      const int groups = std::clamp(static_cast<int>(largest) / (kThreads * 4), 1, kMostGroups);
      const int rows = static_cast<int>(count);
      parts.push_back(mx::reshape(kernel_for(count)(some, {{rows, groups}}, {mx::float32},
                                                    {{groups, rows, 1}, kThreads}, {{"kThreads", kThreads}}, stream)[0],
                                  {rows * groups}, stream));
      begin += count;
    }
  }
  if (parts.empty()) {
    return mx::array(0.0f);
  }
  return mx::sqrt(mx::sum(mx::concatenate(parts, 0, stream), stream), stream);
}

}  // namespace mamba::ops::global_norm_detail
