// Kept of a mixer are what in_proj and x_proj give and the scan's states on the way. Its input, the convolution's
// output and delta are made again from what there is of them, which takes little time beside the products, and the
// scan's backward kernel, which passes by the gated output anyway, gives that again: a third of what MLX would keep.
//
// Sums of two gradients are made by the products themselves, and those of the convolution's input and of the gate are
// never put side by side: each is multiplied with its half of in_proj. What several products need of a matrix is made
// once (ops/product).
#include "mamba/models/mixer_training.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <functional>
#include <vector>

#include "mamba/ops/causal_conv1d/gradients.h"
#include "mamba/ops/product/product.h"
#include "mamba/ops/selective_scan/gradients.h"

namespace mamba::models {

namespace mx = mlx::core;
using ops::Operand;

namespace {

enum Inputs { kX, kInProj, kXProj, kDtProj, kOutProj, kConvWeight, kConvBias, kA, kD, kDtBias, kFixed };

struct Plan {
  int batch, length, inner, rank, states;
  bool has_bias;
  bool keeps_all;  // what could be made again, too
  // Of no gradient, so they need not be arguments.
  mx::array conv_state, ssm_state;
  std::optional<mx::array> resets;
  std::vector<std::vector<mx::array>>* pieces;
  std::function<mx::array()> make_x;
  mx::StreamOrDevice s;

  // (B, L, n) as (B L, n), and back.
  mx::array rows(const mx::array& a) const { return mx::reshape(a, {batch * length, a.shape(-1)}, s); }
  mx::array sequences(const mx::array& a) const { return mx::reshape(a, {batch, length, a.shape(-1)}, s); }

  mx::array columns(const mx::array& a, int from, int to) const {
    mx::Shape start(a.ndim(), 0);
    mx::Shape stop = a.shape();
    start.back() = from;
    stop.back() = to;
    return mx::slice(a, start, stop, s);
  }

  mx::array product(const mx::array& x, const mx::array& weight) const {
    return ops::product_nt(Operand(x), Operand(weight), mx::to_stream(s));
  }

  ops::CausalConv1dInputs conv_inputs(const std::vector<mx::array>& in, const mx::array& xz) const {
    return {.x = columns(xz, 0, inner),
            .weight = in[kConvWeight],
            .bias = has_bias ? std::optional(in[kConvBias]) : std::nullopt,
            .initial_state = conv_state,
            .resets = resets,
            .silu = true};
  }

  ops::SelectiveScanInputs scan_inputs(const std::vector<mx::array>& in, const mx::array& xz, const mx::array& u,
                                       const mx::array& dt_B_C) const {
    const mx::array dt = rows(columns(dt_B_C, 0, rank));
    return {.u = u,
            .delta = sequences(product(dt, in[kDtProj])),
            .A = in[kA],
            .B = columns(dt_B_C, rank, rank + states),
            .C = columns(dt_B_C, rank + states, rank + 2 * states),
            .D = in[kD],
            .z = columns(xz, inner, 2 * inner),
            .delta_bias = in[kDtBias],
            .initial_state = ssm_state,
            .resets = resets};
  }
};

enum Outputs { kOut, kNextConvState, kNextSsmState, kXz, kConv, kDtBC, kKept, kKeptDone };

std::vector<mx::array> forward(const Plan& plan, const std::vector<mx::array>& in) {
  const mx::array xz = plan.sequences(plan.product(plan.rows(in[kX]), in[kInProj]));
  const auto conv = ops::causal_conv1d_alone(plan.conv_inputs(in, xz), plan.s);
  const mx::array dt_B_C = plan.sequences(plan.product(plan.rows(conv.y), in[kXProj]));
  const auto scan = ops::selective_scan_kept(plan.scan_inputs(in, xz, conv.y, dt_B_C), plan.s);
  const mx::array out = plan.sequences(plan.product(plan.rows(scan.y), in[kOutProj]));
  return {out, conv.state, scan.state, xz, plan.keeps_all ? conv.y : dt_B_C, dt_B_C, scan.kept, scan.kept_done};
}

std::vector<mx::array> backward(const Plan& plan, const std::vector<mx::array>& in, const mx::array& gout,
                                const std::vector<mx::array>& kept) {
  const mx::StreamOrDevice& s = plan.s;
  const int inner = plan.inner;
  const mx::array& xz = kept[kXz];
  const mx::array conv = plan.keeps_all ? kept[kConv] : ops::causal_conv1d_alone(plan.conv_inputs(in, xz), s).y;
  const mx::array& dt_B_C = kept[kDtBC];
  const mx::Stream stream = mx::to_stream(s);
  const Operand gout_rows(plan.rows(gout));
  const mx::array gy = plan.sequences(ops::product_nn(gout_rows, Operand(in[kOutProj]), stream));
  const auto scan =
      ops::selective_scan_gradients(plan.scan_inputs(in, xz, conv, dt_B_C), gy, kept[kKept], kept[kKeptDone], s);
  const Operand gdelta(plan.rows(scan.delta));
  const mx::array gdt = ops::product_nn(gdelta, Operand(in[kDtProj]), stream);
  const Operand g_dt_B_C(mx::concatenate({gdt, plan.rows(scan.BC)}, 1, s));
  const mx::array gconv = ops::product_nn(g_dt_B_C, Operand(in[kXProj]), stream, plan.rows(scan.u));
  const auto gc = ops::causal_conv1d_gradients(plan.conv_inputs(in, xz), plan.sequences(gconv), s);
  const Operand gx_half(plan.rows(gc.x));
  const Operand gz_half(plan.rows(scan.z));
  const Operand x(plan.rows(plan.keeps_all ? in[kX] : plan.make_x()));
  const mx::array& weight = in[kInProj];
  const int width = weight.shape(1);
  const Operand weight_x(mx::slice(weight, {0, 0}, {inner, width}, s));
  const Operand weight_z(mx::slice(weight, {inner, 0}, {2 * inner, width}, s));
  const mx::array gx = ops::product_nn(gx_half, weight_x, stream, ops::product_nn(gz_half, weight_z, stream));
  std::vector<mx::array> out(kFixed, in[kA]);
  out[kX] = plan.sequences(gx);
  out[kInProj] = mx::concatenate({ops::product_tn(gx_half, x, stream), ops::product_tn(gz_half, x, stream)}, 0, s);
  out[kXProj] = ops::product_tn(g_dt_B_C, Operand(plan.rows(conv)), stream);
  out[kDtProj] = ops::product_tn(gdelta, Operand(plan.rows(plan.columns(dt_B_C, 0, plan.rank))), stream);
  out[kOutProj] = ops::product_tn(gout_rows, Operand(plan.rows(scan.y)), stream);
  out[kConvWeight] = gc.weight;
  out[kConvBias] = plan.has_bias ? gc.bias : mx::zeros_like(in[kConvBias], s);
  out[kA] = scan.A;
  out[kD] = scan.D;
  out[kDtBias] = scan.delta_bias;
  if (plan.pieces != nullptr) {
    plan.pieces->push_back({out[kOutProj], scan.delta});
    plan.pieces->push_back({out[kXProj], out[kDtProj], gconv});
    plan.pieces->push_back({gx});
    plan.pieces->push_back({out[kInProj]});
  }
  return out;
}

}  // namespace

bool can_train_mixer(const Mixer& mixer, const mx::array& x, const BlockOptions& options, mx::StreamOrDevice s) {
  for (const nn::Linear* layer : {&mixer.in_proj, &mixer.x_proj, &mixer.dt_proj, &mixer.out_proj}) {
    if (layer->lora || layer->quantized || layer->weight.dtype() != x.dtype() ||
        (layer->bias && layer != &mixer.dt_proj)) {
      return false;
    }
  }
  return x.size() > 0 && !options.spans && ops::has_selective_scan_gradients(mixer.A_log.shape(1), s) &&
         ops::has_causal_conv1d_gradients(mixer.conv1d.weight.shape(2), s);
}

mx::array train_mixer(const Mixer& mixer, const DerivedParameters& derived, const mx::array& x, LayerState& state,
                      const BlockOptions& options, const std::function<mx::array()>& x_again, mx::StreamOrDevice s) {
  const Plan plan{.batch = x.shape(0),
                  .length = x.shape(1),
                  .inner = mixer.A_log.shape(0),
                  .rank = mixer.dt_proj.columns(),
                  .states = mixer.A_log.shape(1),
                  .has_bias = mixer.conv1d.bias.has_value(),
                  .keeps_all = options.gradients_follow,
                  .conv_state = mx::stop_gradient(state.conv, s),
                  .ssm_state = mx::stop_gradient(state.ssm, s),
                  .resets = options.resets,
                  .pieces = options.backward_pieces,
                  .make_x = x_again,
                  .s = s};
  const std::vector<mx::array> in = {x,
                                     mixer.in_proj.weight,
                                     mixer.x_proj.weight,
                                     mixer.dt_proj.weight,
                                     mixer.out_proj.weight,
                                     derived.conv_weight,
                                     plan.has_bias ? *mixer.conv1d.bias : derived.dt_bias,
                                     derived.A,
                                     derived.D,
                                     derived.dt_bias};
  const auto run = mx::custom_vjp(
      [plan](const std::vector<mx::array>& primals) { return forward(plan, primals); },
      [plan](const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
             const std::vector<mx::array>& outputs) { return backward(plan, primals, cotangents[kOut], outputs); });
  const std::vector<mx::array> out = run(in);
  state = {mx::stop_gradient(out[kNextConvState], s), mx::stop_gradient(out[kNextSsmState], s)};
  return out[kOut];
}

}  // namespace mamba::models
