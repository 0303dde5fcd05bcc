#include "mamba/models/block.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <functional>
#include <string>
#include <vector>

#include "mamba/models/mixer_training.h"
#include "mamba/ops/branches/branches.h"
#include "mamba/ops/causal_conv1d/causal_conv1d.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/dropout/dropout.h"
#include "mamba/ops/negative_exp/negative_exp.h"
#include "mamba/ops/rms_norm/again.h"
#include "mamba/ops/rms_norm/rms_norm.h"
#include "mamba/ops/selective_scan/selective_scan.h"
#include "mamba/ops/training_block/training_block.h"

namespace mamba::models {

namespace mx = mlx::core;

namespace {

// x (B, L, d), or (B L, d) as the result then.
mx::array mix(const Mixer& mixer, const DerivedParameters& derived, const mx::array& x, LayerState& state,
              const BlockOptions& options, mx::StreamOrDevice s) {
  const auto& spans = options.spans;
  const auto& resets = options.resets;
  // Rows outside spans are nobody's business but the two walks', which ignore them and give 0: on GPUs to clear them
  // around each product would be two more passes over its arrays.
  const std::optional<mx::array> row_spans = ops::on_cpu(mx::to_stream(s)) ? spans : std::nullopt;
  const int inner = mixer.A_log.shape(0);
  const int rank = mixer.dt_proj.columns();
  const int n = mixer.A_log.shape(1);
  const bool as_rows = x.ndim() == 2;
  const int batch = state.ssm.shape(0);
  const auto sequences_of = [&](const mx::array& a) {
    return as_rows ? mx::reshape(a, {batch, a.shape(0) / batch, a.shape(1)}, s) : a;
  };
  const auto rows_of = [&](const mx::array& a) {
    return as_rows ? mx::reshape(a, {a.shape(0) * a.shape(1), a.shape(2)}, s) : a;
  };
  const mx::array xz = sequences_of(mixer.in_proj(x, row_spans, false, s));  // (B, L, 2 D)
  const std::vector<mx::array> halves = ops::column_branches(xz, {inner, inner}, s);
  const auto conv = ops::causal_conv1d({.x = halves[0],
                                        .weight = derived.conv_weight,
                                        .bias = mixer.conv1d.bias,
                                        .initial_state = state.conv,
                                        .spans = spans,
                                        .resets = resets,
                                        .silu = true},
                                       s);
  const auto [u, projected] = ops::two_branches(conv.y, s);
  const mx::array dt_B_C = mixer.x_proj(rows_of(projected), row_spans, false, s);  // (B, L, R + 2 N)
  const std::vector<mx::array> parts = ops::column_branches(sequences_of(dt_B_C), {rank, n, n}, s);
  const mx::array dt = as_rows ? mx::slice(dt_B_C, {0, 0}, {dt_B_C.shape(0), rank}, s) : parts[0];
  // dt_proj's bias goes into the scan, which adds it in float32.
  const mx::array delta = sequences_of(mixer.dt_proj.without_bias(dt, row_spans, s));
  const auto scan = ops::selective_scan({.u = u,
                                         .delta = delta,
                                         .A = derived.A,
                                         .B = parts[1],
                                         .C = parts[2],
                                         .D = derived.D,
                                         .z = halves[1],
                                         .delta_bias = derived.dt_bias,
                                         .initial_state = state.ssm,
                                         .spans = spans,
                                         .resets = resets},
                                        s);
  state = {conv.state, scan.state};
  return mixer.out_proj(rows_of(scan.y), row_spans, false, s);
}

// The block as one node where there is one for it, for who trains all its weights.
std::optional<BlockStream> train_at_once(const Block& block, const DerivedParameters& derived, const BlockStream& in,
                                         const BlockOptions& options, mx::StreamOrDevice s) {
  const Mixer& mixer = block.mixer;
  if (!options.constant_states || options.spans || !in.x.is_tracer()) {
    return std::nullopt;
  }
  for (const nn::Linear* layer : {&mixer.in_proj, &mixer.x_proj, &mixer.dt_proj, &mixer.out_proj}) {
    if (layer->lora || layer->quantized || (layer->bias && layer != &mixer.dt_proj)) {
      return std::nullopt;
    }
  }
  const ops::TrainingBlockInputs inputs{.x = in.x,
                                        .residual = in.residual,
                                        .norm = block.norm.weight,
                                        .eps = block.norm.eps,
                                        .in_proj = mixer.in_proj.weight,
                                        .conv_weight = derived.conv_weight,
                                        .conv_bias = mixer.conv1d.bias,
                                        .x_proj = mixer.x_proj.weight,
                                        .dt_proj = mixer.dt_proj.weight,
                                        .A = derived.A,
                                        .D = derived.D,
                                        .dt_bias = derived.dt_bias,
                                        .out_proj = mixer.out_proj.weight,
                                        .conv = mx::stop_gradient(in.state.conv, s),
                                        .ssm = mx::stop_gradient(in.state.ssm, s),
                                        .resets = options.resets};
  if (!ops::can_train_block(inputs, options.residual_dtype, s)) {
    return std::nullopt;
  }
  const ops::TrainingBlockOutputs out = ops::training_block(inputs, options.residual_dtype, s);
  return BlockStream{
      .x = out.y, .residual = out.residual, .state = {mx::stop_gradient(out.conv, s), mx::stop_gradient(out.ssm, s)}};
}

// Every array that a block's result depends on, its adapters' among them, in a fixed order.
void visit_all(Block& block, const std::function<void(mx::array&)>& visitor) {
  const nn::ParameterVisitor without_path = [&](const std::string&, mx::array& value) { visitor(value); };
  block.visit("", without_path);
  block.mixer.visit_linears("", [&](const std::string&, nn::Linear& layer) {
    if (layer.lora) {
      layer.lora->visit("", without_path);
    }
  });
}

}  // namespace

void Mixer::visit(const std::string& path, const nn::ParameterVisitor& visitor) {
  visitor(nn::joined(path, "A_log"), A_log);
  visitor(nn::joined(path, "D"), D);
  in_proj.visit(nn::joined(path, "in_proj"), visitor);
  conv1d.visit(nn::joined(path, "conv1d"), visitor);
  x_proj.visit(nn::joined(path, "x_proj"), visitor);
  dt_proj.visit(nn::joined(path, "dt_proj"), visitor);
  out_proj.visit(nn::joined(path, "out_proj"), visitor);
}

void Mixer::visit_linears(const std::string& path, const nn::LinearVisitor& visitor) {
  visitor(nn::joined(path, "in_proj"), in_proj);
  visitor(nn::joined(path, "x_proj"), x_proj);
  visitor(nn::joined(path, "dt_proj"), dt_proj);
  visitor(nn::joined(path, "out_proj"), out_proj);
}

void Block::visit(const std::string& path, const nn::ParameterVisitor& visitor) {
  norm.visit(nn::joined(path, "norm"), visitor);
  mixer.visit(nn::joined(path, "mixer"), visitor);
}

DerivedParameters derive(const Mixer& mixer, mx::StreamOrDevice s) {
  const mx::array A_log = mx::astype(mixer.A_log, mx::float32, s);
  return {
      .A = ops::negative_exp(A_log, s),
      .conv_weight = mx::reshape(mixer.conv1d.weight, {mixer.conv1d.weight.shape(0), mixer.conv1d.weight.shape(2)}, s),
      .D = mx::astype(mixer.D, mx::float32, s),
      .dt_bias = mx::astype(*mixer.dt_proj.bias, mx::float32, s),
  };
}

BlockStream run_block(const Block& block, const std::optional<DerivedParameters>& derived, const BlockStream& in,
                      const BlockOptions& options, mx::StreamOrDevice s) {
  const DerivedParameters own = derived ? *derived : derive(block.mixer, s);
  if (std::optional<BlockStream> out = train_at_once(block, own, in, options, s)) {
    out->x = ops::dropout(out->x, options.dropout.rate, options.dropout.seed, s);
    return *std::move(out);
  }
  const auto [y, sum] =
      ops::rms_norm_add(in.x, in.residual, block.norm.weight, block.norm.eps, options.residual_dtype, s);
  LayerState state = in.state;
  const bool written_out = options.constant_states && y.is_tracer() && can_train_mixer(block.mixer, y, options, s);
  const auto y_again = [sum = sum, norm = block.norm, dtype = y.dtype(), s] {
    return ops::rms_norm_again(sum, norm.weight, norm.eps, dtype, s);
  };
  const mx::array x = written_out ? train_mixer(block.mixer, own, y, state, options, y_again, s)
                                  : mix(block.mixer, own, y, state, options, s);
  return {.x = ops::dropout(x, options.dropout.rate, options.dropout.seed, s), .residual = sum, .state = state};
}

BlockStream run_block_recomputed(const Block& block, const std::optional<DerivedParameters>& derived,
                                 const BlockStream& in, const BlockOptions& options, mx::StreamOrDevice s) {
  // Gradients reach what a function is passed, not what it holds: so it is passed everything.
  std::vector<mx::array> inputs = {in.x, in.state.conv, in.state.ssm};
  if (in.residual) {
    inputs.push_back(*in.residual);
  }
  const size_t first_parameter = inputs.size();
  const bool has_residual = in.residual.has_value();
  BlockOptions own_options = options;
  own_options.gradients_follow = true;
  Block copy = block;
  visit_all(copy, [&](mx::array& value) { inputs.push_back(value); });
  const auto run = [=](const std::vector<mx::array>& arrays) {
    Block own = copy;
    size_t next = first_parameter;
    visit_all(own, [&](mx::array& value) { value = arrays[next++]; });
    const BlockStream from{.x = arrays[0],
                           .residual = has_residual ? std::optional(arrays[3]) : std::nullopt,
                           .state = {arrays[1], arrays[2]}};
    const BlockStream to = run_block(own, derived, from, own_options, s);
    return std::vector{to.x, *to.residual, to.state.conv, to.state.ssm};
  };
  const auto gradient = [run](const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                              const std::vector<mx::array>&) {
    // Not before its turn: all blocks computed again at once would take the memory that this is to save.
    return mx::vjp(run, mx::depends(primals, cotangents), cotangents).second;
  };
  const std::vector<mx::array> out = mx::custom_vjp(run, gradient)(inputs);
  return {.x = out[0], .residual = out[1], .state = {out[2], out[3]}};
}

}  // namespace mamba::models
