#include "mamba/models/mamba.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <functional>

#include "mamba/base/error.h"
#include "mamba/models/pack.h"
#include "mamba/models/sent_blocks.h"
#include "mamba/models/spans.h"
#include "mamba/models/weight_block.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/dropout/dropout.h"
#include "mamba/ops/linear/linear.h"
#include "mamba/ops/model_step/cpu_step.h"
#include "mamba/ops/product/product.h"
#include "mamba/ops/rms_norm/rms_norm.h"

namespace mamba::models {

namespace mx = mlx::core;

namespace {

const mx::array& floats_of(const nn::Matrix& matrix) {
  if (matrix.quantized) {
    throw UsageError(
        fmt::format("the model's weights are quantised to {} bits: this needs them as floats, so take "
                    "the model that was quantised, or mlx-mamba convert --dtype",
                    matrix.quantized->bits));
  }
  return matrix.weight;
}

// What a CPU's step reads of each layer beside its matrices, side by side in large pages.
void move_side_by_side(std::vector<DerivedParameters>& derived) {
  const auto for_each = [&](const std::function<void(mx::array&)>& f) {
    for (DerivedParameters& layer : derived) {
      for (mx::array* part : {&layer.A, &layer.D, &layer.dt_bias}) {
        f(*part);
      }
    }
  };
  size_t total = 0;
  for_each([&](const mx::array& part) { total += WeightBlock::room(part.nbytes()); });
  WeightBlock block(total);
  for_each([&](mx::array& part) { part = block.take_copy(part); });
}

}  // namespace

MambaLM::MambaLM(Config config) : config_(std::move(config)) {
  fill_derived(config_);
  const auto eps = static_cast<float>(config_.norm_eps);
  layers_.resize(static_cast<size_t>(config_.n_layer));
  for (Block& block : layers_) {
    block.norm.eps = eps;
    block.mixer.dt_proj.bias = nn::unset();
    if (config_.conv_bias) {
      block.mixer.conv1d.bias = nn::unset();
    }
    if (config_.bias) {
      block.mixer.in_proj.bias = nn::unset();
      block.mixer.out_proj.bias = nn::unset();
    }
  }
  norm_f_.eps = eps;
  if (!config_.tie_embeddings) {
    lm_head_.emplace();
  }
}

mx::Dtype MambaLM::dtype() const {
  const nn::Matrix& first = layers_.front().mixer.in_proj;
  return dtype_.value_or(first.quantized ? mx::float32 : first.weight.dtype());
}

void MambaLM::visit(const std::string& path, const nn::ParameterVisitor& visitor) {
  derived_.clear();
  stacked_.reset();
  cpu_model_.reset();
  wide_output_weight_.reset();
  visit_matrices(path, [](const std::string&, nn::Matrix& matrix) { matrix.unpack(); });
  const std::string backbone = nn::joined(path, "backbone");
  embeddings_.visit(nn::joined(backbone, "embeddings"), visitor);
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].visit(fmt::format("{}.layers.{}", backbone, i), visitor);
  }
  norm_f_.visit(nn::joined(backbone, "norm_f"), visitor);
  if (lm_head_) {
    lm_head_->visit(nn::joined(path, "lm_head"), visitor);
  }
}

void MambaLM::visit_linears(const std::string& path, const nn::LinearVisitor& visitor) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].mixer.visit_linears(nn::joined(path, fmt::format("backbone.layers.{}.mixer", i)), visitor);
  }
}

void MambaLM::visit_matrices(const std::string& path, const nn::MatrixVisitor& visitor) {
  cpu_model_.reset();
  visitor(nn::joined(path, "backbone.embeddings"), embeddings_);
  visit_linears(path, visitor);
  if (lm_head_) {
    visitor(nn::joined(path, "lm_head"), *lm_head_);
  }
}

void MambaLM::set_quantization(std::optional<QuantizationConfig> quantization) {
  config_.quantization = std::move(quantization);
}

const nn::Matrix& MambaLM::output() const {
  return lm_head_ ? static_cast<const nn::Matrix&>(*lm_head_) : embeddings_;
}

const mx::array& MambaLM::embedding_weight() const {
  return floats_of(embeddings_);
}

const mx::array& MambaLM::output_weight() const {
  return floats_of(output());
}

void MambaLM::prepare() {
  std::vector<DerivedParameters> derived;
  std::vector<mx::array> arrays;
  for (const Block& block : layers_) {
    derived.push_back(derive(block.mixer));
    const DerivedParameters& last = derived.back();
    arrays.insert(arrays.end(), {last.A, last.conv_weight, last.D, last.dt_bias});
  }
  if (!ops::on_cpu(mx::to_stream({})) && !output().quantized && output_weight().dtype() != mx::float32) {
    wide_output_weight_ = mx::astype(output_weight(), mx::float32);
    arrays.push_back(*wide_output_weight_);
  }
  mx::eval(arrays);
  derived_ = std::move(derived);
  if (ops::prefers_packed(dtype(), mx::to_stream({}))) {
    pack_matrices(*this);
  }
  if (ops::can_step_on_cpu(mx::to_stream({}))) {
    move_side_by_side(derived_);
    read_for_cpu_step();
  }
  if (ops::can_step_model(1, mx::to_stream({}))) {
    stack_layers();
  }
  keep_operands();
}

void MambaLM::keep_operands() {
  const mx::Stream stream = mx::to_stream({});
  std::vector<nn::Matrix*> matrices;
  size_t bytes = 0;
  visit_linears("", [&](const std::string&, nn::Linear& layer) {
    if (!layer.quantized) {
      matrices.push_back(&layer);
      bytes += layer.weight.dtype() == mx::float32 ? layer.weight.nbytes() : 0;
    }
  });
  if (ops::on_cpu(stream) || (bytes > 0 && !ops::can_keep_operands(bytes, stream))) {
    return;
  }
  for (nn::Matrix* matrix : matrices) {
    matrix->operand.emplace(matrix->weight);
    matrix->operand->prepare_right(stream);
  }
}

std::pair<mx::array, State> MambaLM::hidden(const mx::array& tokens, const State& state, const ForwardOptions& options,
                                            mx::StreamOrDevice s) const {
  ops::check_shape("MambaLM", "tokens", tokens, {state.batch(), -1});
  return hidden_of(embeddings_(tokens, dtype(), s), state, options, s);
}

std::pair<mx::array, State> MambaLM::hidden_of(const mx::array& embeddings, const State& state,
                                               const ForwardOptions& options, mx::StreamOrDevice s) const {
  ops::check_shape("MambaLM", "embeddings", embeddings, {state.batch(), -1, config_.d_model});
  state.check_fits(config_);
  if (options.spans) {
    check_spans(*options.spans, embeddings.shape(0), embeddings.shape(1));
  }
  const mx::Dtype residual_dtype = config_.residual_in_fp32 ? mx::float32 : dtype();
  if (options.evaluate && takes_prompt_blocks(embeddings.shape(1), options, mx::to_stream(s))) {
    return hidden_by_blocks(embeddings, state, residual_dtype, mx::to_stream(s));
  }
  const Dropout& dropout = options.dropout;
  BlockOptions block_options{
      .residual_dtype = residual_dtype, .spans = to_array(options.spans, s), .resets = options.resets};
  block_options.constant_states = options.constant_states;
  block_options.backward_pieces = options.backward_pieces;
  const auto run = options.recompute ? run_block_recomputed : run_block;
  State next = state;
  const bool on_cpu = ops::on_cpu(mx::to_stream(s));
  // Where all positions are rows of matrices, products on GPUs need no nodes that change shapes.
  const bool as_rows = options.evaluate && !on_cpu;
  const mx::Shape shape = embeddings.shape();
  const mx::array first = as_rows ? mx::reshape(embeddings, {shape[0] * shape[1], shape[2]}, s) : embeddings;
  SentBlocks sent(int64_t{embeddings.shape(0)} * embeddings.shape(1), config_, dtype());
  BlockStream stream{
      .x = ops::dropout(first, dropout.rate, dropout.seed, s), .residual = std::nullopt, .state = state.layers.front()};
  for (size_t i = 0; i < layers_.size(); ++i) {
    block_options.dropout = {dropout.rate, dropout.seed + i + 1};
    stream.state = state.layers[i];
    stream = run(layers_[i], derived_.empty() ? std::nullopt : std::optional(derived_[i]), stream, block_options, s);
    next.layers[i] = stream.state;
    const size_t at_once = dtype() == mx::float32 || embeddings.size() > kManyTokens * embeddings.shape(2) ? 1 : 4;
    if (options.pieces != nullptr && (i + 1) % at_once == 0) {
      options.pieces->push_back(*stream.residual);
    }
    if (options.evaluate && !on_cpu) {
      sent.add(stream.x);
    } else if (options.evaluate) {
      // All but out_proj has its memory back before the next block asks for its own, and that block's nodes are made
      // while out_proj is computed.
      if (i > 0) {
        next.layers[i - 1].ssm.wait();
      }
      mx::async_eval(std::vector<mx::array>{stream.state.conv, stream.state.ssm, *stream.residual});
      mx::async_eval(std::vector<mx::array>{stream.x});
    }
  }
  const mx::array x =
      ops::rms_norm_add(stream.x, stream.residual, norm_f_.weight, norm_f_.eps, residual_dtype, s).first;
  return {as_rows ? mx::reshape(x, shape, s) : x, std::move(next)};
}

mx::array MambaLM::logits(const mx::array& hidden, const std::optional<mx::array>& spans, mx::StreamOrDevice s) const {
  ops::LinearOptions options;
  options.spans = spans;
  options.out_dtype = mx::float32;
  if (wide_output_weight_) {
    options.short_weight = true;
    return ops::linear(hidden, *wide_output_weight_, {}, options, s);
  }
  return output().multiply(hidden, {}, options, s);
}

void MambaLM::check_tokens(std::span<const int32_t> tokens) const {
  if (tokens.empty()) {
    throw UsageError("the prompt is empty: give at least one token");
  }
  for (const int32_t id : tokens) {
    if (id < 0 || id >= config_.vocab_size) {
      throw UsageError(fmt::format("token id {} is outside the model's vocabulary: ids go from 0 to {}", id,
                                   config_.vocab_size - 1));
    }
  }
}

}  // namespace mamba::models
