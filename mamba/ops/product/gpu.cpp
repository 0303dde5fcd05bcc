#include "mamba/ops/product/gpu.h"

#include <mlx/ops.h>

#include <limits>

#include "mamba/ops/gpu/kernel.h"

namespace mamba::embedded {
std::string_view gpu_product_split();
std::string_view gpu_product_split_turned();
std::string_view gpu_product_sum();
}  // namespace mamba::embedded

namespace mamba::ops::product_detail {

namespace mx = mlx::core;

mx::array gpu_split(const mx::array& x, const Parts& parts, const mx::Stream& stream, int piece) {
  static const gpu::Kernel kernel("mamba_product_split", embedded::gpu_product_split(), {"x"}, {"parts"});
  constexpr int kThreads = 256;
  constexpr int kPer = 4;
  const int rows = x.shape(0);
  const int columns = x.shape(1);
  const mx::Shape shape = piece > 0      ? mx::Shape{columns / piece * rows, parts.count * piece}
                          : parts.blocks ? mx::Shape{parts.count * rows, columns}
                                         : mx::Shape{rows, parts.count * columns};
  const auto total = static_cast<int64_t>(x.size());
  const auto groups = static_cast<int>((total + kThreads * kPer - 1) / (kThreads * kPer));
  return kernel({x}, {shape}, {mx::float32}, {{groups, 1, 1}, kThreads},
                {{"kThreads", kThreads},
                 {"kPer", kPer},
                 {"kParts", parts.count},
                 {"kLow", parts.low},
                 {"kBlocks", parts.blocks},
                 {"kPiece", piece},
                 {"kWide", total > std::numeric_limits<int32_t>::max()}},
                stream)[0];
}

mx::array gpu_split_turned(const mx::array& x, const Parts& parts, int piece, const mx::Stream& stream) {
  static const gpu::Kernel kernel("mamba_product_split_turned", embedded::gpu_product_split_turned(), {"x"}, {"parts"});
  constexpr int kTile = 32;
  const int rows = x.shape(0);
  const int columns = x.shape(1);
  const mx::Shape shape =
      piece > 0 ? mx::Shape{rows / piece, columns, parts.count * piece} : mx::Shape{columns, parts.count * rows};
  return kernel({x}, {shape}, {mx::float32},
                {{(columns + kTile - 1) / kTile, (rows + kTile - 1) / kTile, 1}, 8 * kTile},
                {{"kParts", parts.count}, {"kLow", parts.low}, {"kPiece", piece}}, stream)[0];
}

mx::array gpu_sum(const std::vector<mx::array>& arrays, const mx::Stream& stream) {
  static const gpu::Kernel kernel("mamba_product_sum", embedded::gpu_product_sum(), {"a", "b"}, {"out"});
  constexpr int kThreads = 256;
  constexpr int kPer = 4;
  const mx::Shape shape(arrays[0].shape().begin() + 1, arrays[0].shape().end());
  const auto size = static_cast<int>(arrays[0].size() / static_cast<size_t>(arrays[0].shape(0)));
  const auto flat = [&](const mx::array& a) {
    return gpu::contiguous(mx::reshape(a, {a.shape(0), size}, stream), stream);
  };
  const mx::array none = mx::zeros({0, size}, mx::float32, stream);
  const mx::array out = kernel({flat(arrays[0]), arrays.size() > 1 ? flat(arrays[1]) : none}, {{size}}, {mx::float32},
                               {{(size + kThreads * kPer - 1) / (kThreads * kPer), 1, 1}, kThreads},
                               {{"kThreads", kThreads}, {"kPer", kPer}}, stream)[0];
  return mx::reshape(out, shape, stream);
}

}  // namespace mamba::ops::product_detail
