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

StepOutputs block_step(const mx::array& h, const mx::array& conv, const mx::array& ssm, const BlockStepWeights& weights,
                       const std::optional<mx::array>& ahead, const mx::Stream& stream) {
  check_mixer(conv, ssm, weights.mixer);
  check_shape(kOp, "h", h, {ssm.shape(0), -1});
  check_shape(kOp, "norm", weights.norm, {h.shape(1)});
  check_shape(kOp, "in_proj", weights.in_proj, {2 * weights.mixer.A.shape(0), h.shape(1)});
  check_shape(kOp, "out_proj", weights.out_proj, {h.shape(1), weights.mixer.A.shape(0)});
  check(on_cpu(stream) || can_step_whole(h.shape(0), stream), "[{}] cannot run {} sequences in one launch here", kOp,
        h.shape(0));
  return step::whole(h, conv, ssm, weights, ahead, {}, stream);
}

StepOutputs mixer_step(const mx::array& xz, const mx::array& conv, const mx::array& ssm,
                       const MixerStepWeights& weights, const mx::Stream& stream) {
  check_mixer(conv, ssm, weights);
  check_shape(kOp, "xz", xz, {ssm.shape(0), 2 * weights.A.shape(0)});
  return step::mixer(xz, conv, ssm, weights, {}, stream);
}

mx::array norm_logits(const mx::array& h, const mx::array& norm, float eps, const mx::array& weight,
                      const mx::Stream& stream) {
  check_shape(kOp, "h", h, {-1, -1});
  check_shape(kOp, "norm", norm, {h.shape(1)});
  check_shape(kOp, "weight", weight, {-1, h.shape(1)});
  return step::logits(h, norm, eps, weight, {}, stream);
}

}  // namespace mamba::ops
