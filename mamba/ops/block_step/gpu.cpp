#include "mamba/ops/block_step/gpu.h"

#include <vector>

#include "mamba/ops/dispatch.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::embedded {
std::string_view gpu_block_step();
}  // namespace mamba::embedded

namespace mamba::ops::step {

namespace mx = mlx::core;

StepOutputs mixer(const mx::array& xz, const mx::array& conv, const mx::array& ssm, const MixerStepWeights& w,
                  int threads, const mx::Stream& stream) {
  // The more lanes a sequence's group has the better. On the host, where fibers stand for threads, few will do.
  constexpr int kThreads = 1024;
  constexpr int kRegisters = 65536;  // of a multiprocessor
  static const gpu::Kernel kernel(
      "mamba_mixer_step", embedded::gpu_block_step(),
      {"xz", "conv_weight", "conv_bias", "x_proj", "dt_proj", "dt_bias", "A", "D", "conv", "ssm"},
      {"y", "conv_after", "ssm_after", "u", "dt_B_C"}, kRegisters / kThreads);
  threads = threads > 0 ? threads : on_cpu(stream) ? 64 : kThreads;
  const int batch = xz.shape(0);
  const int states = w.A.shape(1);
  const mx::Shape wide = {batch, w.A.shape(0)};
  const mx::Dtype dtype = xz.dtype();
  std::vector<mx::array> inputs = {
      xz, w.conv_weight, w.conv_bias.value_or(w.D), w.x_proj, w.dt_proj, w.dt_bias, w.A, w.D, conv, ssm};
  for (size_t i = 1; i < inputs.size(); ++i) {
    inputs[i] = gpu::contiguous(inputs[i], stream);
  }
  const std::vector<mx::array> out =
      kernel(inputs, {wide, conv.shape(), ssm.shape(), wide, {batch, w.dt_proj.shape(1) + 2 * states}},
             {dtype, dtype, mx::float32, dtype, dtype}, {{batch, 1, 1}, threads},
             {{"T", dtype},
              {"kThreads", threads},
              {"kTaps", w.conv_weight.shape(1)},
              {"kPer", (states + 3) / 4},
              {"kHasConvBias", w.conv_bias.has_value()}},
             stream);
  return {out[0], out[1], out[2]};
}

}  // namespace mamba::ops::step
