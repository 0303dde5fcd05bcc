#include "mamba/ops/model_step/model_step.h"

#include "mamba/base/error.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/model_step/gpu.h"

namespace mamba::ops {

namespace mx = mlx::core;

ModelStepOutputs model_step(const mx::array& tokens, const mx::array& conv, const mx::array& ssm,
                            const ModelStepWeights& w, const mx::Stream& stream) {
  constexpr const char* kOp = "model_step";
  check_shape(kOp, "A", w.A, {-1, -1, -1});
  check_shape(kOp, "conv_weight", w.conv_weight, {w.A.shape(0), w.A.shape(1), -1});
  check_shape(kOp, "dt_proj", w.dt_proj, {w.A.shape(0), w.A.shape(1), -1});
  check_shape(kOp, "embeddings", w.embeddings, {-1, -1});
  const int layers = w.A.shape(0);
  const int channels = w.A.shape(1);
  const int states = w.A.shape(2);
  const int width = w.embeddings.shape(1);
  check_shape(kOp, "ssm", ssm, {layers, -1, channels, states});
  const int batch = ssm.shape(1);
  check_shape(kOp, "conv", conv, {layers, batch, w.conv_weight.shape(2) - 1, channels});
  check_shape(kOp, "norm", w.norm, {layers, width});
  check_shape(kOp, "in_proj", w.in_proj, {layers, 2 * channels, width});
  check_shape(kOp, "x_proj", w.x_proj, {layers, w.dt_proj.shape(2) + 2 * states, channels});
  check_shape(kOp, "dt_bias", w.dt_bias, {layers, channels});
  check_shape(kOp, "D", w.D, {layers, channels});
  check_shape(kOp, "out_proj", w.out_proj, {layers, width, channels});
  check_shape(kOp, "norm_f", w.norm_f, {width});
  check_shape(kOp, "output", w.output, {-1, width});
  check(tokens.ndim() >= 1 && tokens.ndim() <= 2 && tokens.shape(0) == batch,
        "[{}] tokens must have {} rows, one for each sequence", kOp, batch);
  check(on_cpu(stream) || can_step_model(batch, stream), "[{}] cannot run {} sequences in one launch here", kOp, batch);
  return step::model(tokens, conv, ssm, w, {}, stream);
}

}  // namespace mamba::ops
