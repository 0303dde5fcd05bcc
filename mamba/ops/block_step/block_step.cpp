#include "mamba/ops/block_step/block_step.h"

#include "mamba/base/error.h"
#include "mamba/ops/block_step/gpu.h"
#include "mamba/ops/dispatch.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

constexpr const char* kOp = "block_step";

void check_mixer(const mx::array& conv, const mx::array& ssm, const MixerStepWeights& w) {
  check_shape(kOp, "A", w.A, {-1, -1});
  check_shape(kOp, "dt_proj", w.dt_proj, {w.A.shape(0), -1});
  const int batch = ssm.shape(0);
  const int channels = w.A.shape(0);
  const int states = w.A.shape(1);
  check_shape(kOp, "ssm", ssm, {-1, channels, states});
  check_shape(kOp, "conv_weight", w.conv_weight, {channels, -1});
  check_shape(kOp, "conv", conv, {batch, w.conv_weight.shape(1) - 1, channels});
  check_shape(kOp, "x_proj", w.x_proj, {w.dt_proj.shape(1) + 2 * states, channels});
  check_shape(kOp, "dt_bias", w.dt_bias, {channels});
  check_shape(kOp, "D", w.D, {channels});
}

}  // namespace

StepOutputs mixer_step(const mx::array& xz, const mx::array& conv, const mx::array& ssm,
                       const MixerStepWeights& weights, const mx::Stream& stream) {
  check_mixer(conv, ssm, weights);
  check_shape(kOp, "xz", xz, {ssm.shape(0), 2 * weights.A.shape(0)});
  return step::mixer(xz, conv, ssm, weights, 0, stream);
}

}  // namespace mamba::ops
