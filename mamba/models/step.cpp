// One token for each sequence. On a GPU a step of a small model costs what its launches cost, so they are few; on a
// CPU, beside reading the weights, what the graph's nodes and the ends of parallel loops cost.

#include <mlx/ops.h>

#include <algorithm>

#include "mamba/base/error.h"
#include "mamba/models/mamba.h"
#include "mamba/ops/block_step/block_step.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/model_step/cpu_prompt.h"
#include "mamba/ops/model_step/cpu_step.h"
#include "mamba/ops/rms_norm/rms_norm.h"

namespace mamba::models {

namespace mx = mlx::core;

namespace {

bool is_plain(const nn::Linear& layer, mx::Dtype dtype) {
  return !layer.lora && !layer.quantized && layer.weight.dtype() == dtype;
}

// Whether ops/block_step and model_step do all that the block does.
bool is_plain(const Block& block, mx::Dtype dtype) {
  const Mixer& m = block.mixer;
  return is_plain(m.in_proj, dtype) && !m.in_proj.bias && is_plain(m.x_proj, dtype) && is_plain(m.dt_proj, dtype) &&
         is_plain(m.out_proj, dtype) && !m.out_proj.bias;
}

ops::MixerStepWeights weights_of(const Mixer& mixer, const DerivedParameters& derived) {
  return {.conv_weight = derived.conv_weight,
          .conv_bias = mixer.conv1d.bias,
          .x_proj = mixer.x_proj.weight,
          .dt_proj = mixer.dt_proj.weight,
          .dt_bias = derived.dt_bias,
          .A = derived.A,
          .D = derived.D};
}

ops::StepMatrix matrix_of(const nn::Matrix& matrix) {
  if (matrix.packed) {
    return *matrix.packed;
  }
  return matrix.quantized ? ops::StepMatrix(matrix.parts()) : ops::StepMatrix(matrix.weight);
}

ops::CpuStepWeights cpu_weights_of(const Block& block, const DerivedParameters& derived) {
  const Mixer& m = block.mixer;
  return {.norm = block.norm.weight,
          .eps = block.norm.eps,
          .in_proj = matrix_of(m.in_proj),
          .in_bias = m.in_proj.bias,
          .conv_weight = derived.conv_weight,
          .conv_bias = m.conv1d.bias,
          .x_proj = matrix_of(m.x_proj),
          .dt_proj = matrix_of(m.dt_proj),
          .dt_bias = derived.dt_bias,
          .A = derived.A,
          .D = derived.D,
          .out_proj = matrix_of(m.out_proj),
          .out_bias = m.out_proj.bias};
}

bool has_adapter(const Mixer& m) {
  return m.in_proj.lora || m.x_proj.lora || m.dt_proj.lora || m.out_proj.lora;
}

}  // namespace

bool MambaLM::is_fusible() const {
  return !derived_.empty() && !output().quantized &&
         std::all_of(layers_.begin(), layers_.end(), [&](const Block& block) { return is_plain(block, dtype()); });
}

StepWay MambaLM::fastest_step(const mx::Stream& stream) const {
  if (ops::can_step_on_cpu(stream)) {
    return steps_stacked(1, stream) ? StepWay::kStacked : StepWay::kOperations;
  }
  return ops::on_cpu(stream) || !is_fusible() ? StepWay::kOperations : StepWay::kMixer;
}

std::pair<mx::array, State> MambaLM::step_fused(const mx::array& embeddings, const State& state,
                                                const mx::Stream& s) const {
  check(!derived_.empty(), "[MambaLM] a fused step needs a model that is prepared");
  const mx::Dtype residual_dtype = config_.residual_in_fp32 ? mx::float32 : dtype();
  State next = state;
  mx::array x = embeddings;
  std::optional<mx::array> residual;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Block& block = layers_[i];
    const auto [y, sum] = ops::rms_norm_add(x, residual, block.norm.weight, block.norm.eps, residual_dtype, s);
    const ops::StepOutputs out = ops::mixer_step(block.mixer.in_proj(y, {}, false, s), state.layers[i].conv,
                                                 state.layers[i].ssm, weights_of(block.mixer, derived_[i]), s);
    next.layers[i] = {out.conv, out.ssm};
    x = block.mixer.out_proj(out.y, {}, false, s);
    residual = sum;
  }
  const mx::array h = ops::rms_norm_add(x, residual, norm_f_.weight, norm_f_.eps, residual_dtype, s).first;
  return {logits(h, {}, s), std::move(next)};
}

std::pair<mx::array, State> MambaLM::step(const mx::array& tokens, const State& state, StepWay way,
                                          mx::StreamOrDevice s) const {
  ops::check_shape("MambaLM", "tokens", tokens, {state.batch()});
  const mx::Stream stream = mx::to_stream(s);
  const int batch = tokens.shape(0);
  if (way == StepWay::kFastest) {
    way = fastest_step(stream);
  }
  if (way == StepWay::kStacked) {
    state.check_fits(config_);
    auto [logits, next] = step(tokens, StackedState::of(state), stream);
    return {std::move(logits), next.split()};
  }
  if (way == StepWay::kMixer) {
    state.check_fits(config_);
    return step_fused(embeddings_(tokens, dtype(), stream), state, stream);
  }
  auto [h, next] = hidden(mx::reshape(tokens, {batch, 1}, stream), state, {}, stream);
  return {mx::reshape(logits(h, {}, stream), {batch, config_.vocab_size}, stream), std::move(next)};
}

bool MambaLM::has_adapters() const {
  return std::any_of(layers_.begin(), layers_.end(), [](const Block& block) { return has_adapter(block.mixer); });
}

bool MambaLM::steps_stacked(int batch, mx::StreamOrDevice s) const {
  const mx::Stream stream = mx::to_stream(s);
  if (ops::can_step_on_cpu(stream)) {
    return cpu_model_ != nullptr && !has_adapters();
  }
  return stacked_ && ops::can_step_model(batch, stream);
}

std::pair<mx::array, StackedState> MambaLM::step(const mx::array& tokens, const StackedState& state,
                                                 mx::StreamOrDevice s) const {
  const mx::Stream stream = mx::to_stream(s);
  ops::ModelStepOutputs out = [&] {
    if (cpu_model_ != nullptr) {
      const mx::Dtype residual = config_.residual_in_fp32 ? mx::float32 : dtype();
      const mx::array ids = tokens.ndim() == 1 ? tokens : mx::take(tokens, 0, 1, stream);
      const mx::array h = mx::astype(embeddings_(ids, dtype(), stream), residual, stream);
      return ops::cpu_model_step(h, state.conv, state.ssm, cpu_model_, stream);
    }
    check(stacked_.has_value(), "[MambaLM] a step of all layers at once needs a model that is prepared");
    return ops::model_step(tokens, state.conv, state.ssm, *stacked_, stream);
  }();
  return {std::move(out.logits), {std::move(out.conv), std::move(out.ssm)}};
}

bool MambaLM::takes_prompt_blocks(int length, const ForwardOptions& options, const mx::Stream& stream) const {
  const bool plain = !options.spans && !options.resets && options.dropout.rate == 0 && !has_adapters();
  return plain && cpu_model_ != nullptr && ops::can_step_on_cpu(stream) &&
         ops::can_take_prompt(*cpu_model_, length, dtype());
}

std::pair<mx::array, State> MambaLM::hidden_by_blocks(const mx::array& embeddings, const State& state,
                                                      mx::Dtype residual, const mx::Stream& s) const {
  State next = state;
  mx::array h = mx::astype(embeddings, residual, s);
  for (size_t i = 0; i < layers_.size(); ++i) {
    ops::PromptOutputs out = ops::cpu_prompt_block(h, state.layers[i].conv, state.layers[i].ssm, cpu_model_, i, s);
    next.layers[i] = {std::move(out.conv), std::move(out.ssm)};
    h = std::move(out.h);
  }
  const mx::array x = ops::rms_norm_add(h, {}, norm_f_.weight, norm_f_.eps, residual, s).first;
  return {mx::astype(x, dtype(), s), std::move(next)};
}

bool MambaLM::steps_at_once() const {
  return cpu_model_ != nullptr && !has_adapters() && ops::can_step_on_cpu(mx::to_stream({}));
}

mx::array MambaLM::step_at_once(std::span<const int32_t> tokens, StackedState& state) const {
  check(cpu_model_ != nullptr, "[MambaLM] a step at once needs a model that is prepared");
  const mx::Dtype residual = config_.residual_in_fp32 ? mx::float32 : dtype();
  return ops::cpu_model_step_now(tokens, residual, state.conv, state.ssm, cpu_model_);
}

void MambaLM::read_for_cpu_step() {
  ops::CpuModelStepWeights weights{.blocks = {},
                                   .norm_f = norm_f_.weight,
                                   .eps = norm_f_.eps,
                                   .output = matrix_of(output()),
                                   .embeddings = matrix_of(embeddings_)};
  for (size_t i = 0; i < layers_.size(); ++i) {
    weights.blocks.push_back(cpu_weights_of(layers_[i], derived_[i]));
  }
  cpu_model_ = ops::read_for_cpu_step(weights, mx::to_stream({}));
}

}  // namespace mamba::models
