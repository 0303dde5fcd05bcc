#include <memory>
#include <mutex>

#include "mamba/ops/linear/multiply.h"
#include "mamba/ops/rms_norm/kernel.h"
#include "mamba/ops/training_block/arrays.h"
#include "mamba/ops/training_block/node.h"

namespace mamba::ops::training_block_detail {

namespace mx = mlx::core;
using linear_detail::ProductsAtOnce;
using linear_detail::Workspace;

namespace {

// Gathered before it is dispatched: what runs allocates nothing.
struct ForwardJob {
  Arrays arrays;
  ProductsAtOnce products;
  void* y;
  norm::Outputs normed;
  conv::Outputs conv;
  scan::Outputs scan;

  void run() {
    const Arrays& a = arrays;
    const Between& between = a.between;
    const std::unique_lock<std::mutex> locked = Workspace::instance().lock();
    products.set_workspace(Workspace::instance().data());
    norm::forward({.batch = a.batch,
                   .length = a.length,
                   .channels = a.width,
                   .eps = a.eps,
                   .element = a.element,
                   .x = a.x,
                   .weight = a.norm,
                   .wide_weight = a.wide_norm,
                   .residual = a.residual,
                   .residual_element = a.residual_element},
                  normed);
    products.forward(a.matrix(between.normed, a.width), a.in_proj, 2 * a.inner, a.width,
                     a.place_of(between.xz, 2 * a.inner));
    conv::forward(a.conv, conv);
    products.forward(a.matrix(between.conv, a.inner), a.x_proj, a.projected(), a.inner,
                     a.place_of(between.dt_B_C, a.projected()));
    products.forward(a.matrix(between.dt_B_C, a.projected()), a.dt_proj, a.inner, a.rank,
                     a.place_of(between.delta, a.inner));
    scan::forward(a.scan, scan);
    products.forward(a.matrix(between.gated, a.inner), a.out_proj, a.width, a.inner, a.place_of(y, a.width));
  }
};

}  // namespace

void TrainingBlock::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
  for (mx::array& out : outputs) {
    allocate(out);
    encoder.set_output_array(out);
  }
  const auto to = [&](Output i) { return outputs[i].data<void>(); };
  Arrays arrays(inputs, settings_, encoder);
  arrays.place({.normed = to(kNormed),
                .xz = to(kXz),
                .conv = to(kConv),
                .dt_B_C = to(kDtBC),
                .delta = to(kDelta),
                .gated = to(kGated),
                .states = outputs[kStates].data<float>()});
  const norm::Outputs normed{
      .y = to(kNormed), .y_element = arrays.element, .sum = to(kSum), .sum_element = cpu::element_of(outputs[kSum])};
  const auto job = std::make_shared<ForwardJob>(
      ForwardJob{.arrays = arrays,
                 .products = ProductsAtOnce(arrays.batch, arrays.length, 2 * arrays.inner),
                 .y = to(kY),
                 .normed = normed,
                 .conv = {.y = to(kConv), .state = to(kNextConv)},
                 .scan = {.y = to(kGated), .state = outputs[kNextSsm].data<float>(), .kept = arrays.between.states}});
  Workspace::instance().reserve(job->arrays.workspace_floats(job->products));
  encoder.dispatch([job] { job->run(); });
}

}  // namespace mamba::ops::training_block_detail
