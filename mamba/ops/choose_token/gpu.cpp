#include "mamba/ops/choose_token/gpu.h"

#include <vector>

#include "mamba/ops/gpu/kernel.h"

namespace mamba::embedded {
std::string_view gpu_choose_token();
}  // namespace mamba::embedded

namespace mamba::ops::token {

namespace mx = mlx::core;

ChooseTokenOutputs gpu_choose(const ChooseTokenInputs& in, const mx::Stream& stream, int threads) {
  static const gpu::Kernel kernel("mamba_choose_token", embedded::gpu_choose_token(),
                                  {"logits", "settings", "draws", "seen"}, {"chosen", "scores", "seen_after"});
  const mx::array logits = gpu::contiguous(in.logits, stream);
  const mx::Shape& shape = logits.shape();
  const bool has_seen = in.seen.has_value();
  const std::vector<mx::array> out = kernel(
      {logits, gpu::contiguous(in.settings, stream), in.draws, has_seen ? gpu::contiguous(*in.seen, stream) : logits},
      {{shape[0], 2}, shape, has_seen ? shape : mx::Shape{1}}, {mx::int32, mx::float32, mx::uint8},
      {{shape[0], 1, 1}, threads}, {{"kThreads", threads}, {"kHasSeen", has_seen}}, stream);
  return {out[0], has_seen ? std::optional(out[2]) : std::nullopt};
}

}  // namespace mamba::ops::token
