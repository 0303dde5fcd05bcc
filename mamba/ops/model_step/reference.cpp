#include <mlx/ops.h>

#include "mamba/ops/block_step/block_step.h"
#include "mamba/ops/linear/linear.h"
#include "mamba/ops/model_step/cpu_step.h"
#include "mamba/ops/model_step/model_step.h"
#include "mamba/ops/rms_norm/reference.h"

namespace mamba::ops {

namespace mx = mlx::core;

ModelStepOutputs model_step_reference(const mx::array& tokens, const mx::array& conv, const mx::array& ssm,
                                      const ModelStepWeights& w, const mx::Stream& s) {
  const mx::array ids = tokens.ndim() == 1 ? tokens : mx::take(tokens, 0, 1, s);
  mx::array h = mx::astype(mx::take(w.embeddings, ids, 0, s), w.residual_dtype, s);
  std::vector<mx::array> convs;
  std::vector<mx::array> ssms;
  for (int layer = 0; layer < w.A.shape(0); ++layer) {
    const auto of = [&](const mx::array& a) { return mx::take(a, layer, 0, s); };
    const BlockStepWeights block = {.norm = of(w.norm),
                                    .eps = w.eps,
                                    .in_proj = of(w.in_proj),
                                    .mixer = {.conv_weight = of(w.conv_weight),
                                              .conv_bias = w.conv_bias ? std::optional(of(*w.conv_bias)) : std::nullopt,
                                              .x_proj = of(w.x_proj),
                                              .dt_proj = of(w.dt_proj),
                                              .dt_bias = of(w.dt_bias),
                                              .A = of(w.A),
                                              .D = of(w.D)},
                                    .out_proj = of(w.out_proj)};
    const StepOutputs out = block_step_reference(h, of(conv), of(ssm), block, s);
    h = out.y;
    convs.push_back(out.conv);
    ssms.push_back(out.ssm);
  }
  const mx::array x = rms_norm_reference(mx::astype(h, mx::float32, s), w.norm_f, w.eps, s);
  return {linear_reference(x, w.output, {}, {.out_dtype = mx::float32}, s), mx::stack(convs, 0, s),
          mx::stack(ssms, 0, s)};
}

ModelStepOutputs cpu_model_step_reference(const mx::array& h, const mx::array& conv, const mx::array& ssm,
                                          const CpuModelStepWeights& w, const mx::Stream& s) {
  std::vector<mx::array> convs;
  std::vector<mx::array> ssms;
  mx::array sum = h;
  for (size_t i = 0; i < w.blocks.size(); ++i) {
    const auto of = [&](const mx::array& a) {
      const auto layer = static_cast<int>(i);
      mx::Shape stop = a.shape();
      stop[0] = layer + 1;
      mx::Shape start(a.ndim(), 0);
      start[0] = layer;
      return mx::squeeze(mx::slice(a, start, stop, s), 0, s);  // may have no elements
    };
    const StepOutputs out = cpu_block_step_reference(sum, of(conv), of(ssm), w.blocks[i], s);
    sum = out.y;
    convs.push_back(out.conv);
    ssms.push_back(out.ssm);
  }
  const mx::array x = rms_norm_reference(mx::astype(sum, mx::float32, s), w.norm_f, w.eps, s);
  return {step_product_reference(mx::astype(x, conv.dtype(), s), w.output, {}, s), mx::stack(convs, 0, s),
          mx::stack(ssms, 0, s)};
}

}  // namespace mamba::ops
