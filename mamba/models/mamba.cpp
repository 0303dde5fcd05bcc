#include "mamba/models/mamba.h"

#include <mlx/allocator.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cstring>

#include "mamba/base/error.h"
#include "mamba/models/pack.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/dropout/dropout.h"
#include "mamba/ops/linear/linear.h"
#include "mamba/ops/model_step/cpu_step.h"
#include "mamba/ops/rms_norm/rms_norm.h"

namespace mamba::models {

namespace mx = mlx::core;

namespace {

// Where evaluating each layer, which waits a few microseconds for its kernels, is nothing beside their work.
constexpr int kManyPositions = 64;

mx::array to_array(const Spans& spans) {
  std::vector<int32_t> flat;
  flat.reserve(spans.size() * 2);
  for (const Span& span : spans) {
    flat.push_back(span.begin);
    flat.push_back(span.end);
  }
  return mx::array(flat.begin(), {static_cast<int>(spans.size()), 2}, mx::int32);
}

std::optional<mx::array> to_array(const std::optional<Spans>& spans) {
  return spans ? std::optional(to_array(*spans)) : std::nullopt;
}

void check_spans(const Spans& spans, int batch, int length) {
  check(spans.size() == static_cast<size_t>(batch), "[MambaLM] got {} spans for {} rows", spans.size(), batch);
  for (const Span& span : spans) {
    check(0 <= span.begin && span.begin <= span.end && span.end <= length,
          "[MambaLM] span [{}, {}) does not lie in a row of {} positions", span.begin, span.end, length);
  }
}

// Rows of (B, L, ...) moved left so that each starts at 0; what comes free is zero.
mx::array left_aligned(const mx::array& rows, const Spans& spans) {
  const mx::array source = mx::contiguous(rows);
  mx::eval(source);
  mx::array out(mx::allocator::malloc(source.nbytes()), source.shape(), source.dtype());
  std::memset(out.data<char>(), 0, out.nbytes());
  const int64_t row_bytes = static_cast<int64_t>(source.nbytes()) / source.shape(0);
  const int64_t item = row_bytes / source.shape(1);
  for (size_t b = 0; b < spans.size(); ++b) {
    const int64_t row = static_cast<int64_t>(b) * row_bytes;
    std::memcpy(out.data<char>() + row, source.data<char>() + row + spans[b].begin * item,
                static_cast<size_t>((spans[b].end - spans[b].begin) * item));
  }
  return out;
}

const mx::array& floats_of(const nn::Matrix& matrix) {
  if (matrix.quantized) {
    throw UsageError(
        fmt::format("the model's weights are quantised to {} bits: this needs them as floats, so take "
                    "the model that was quantised, or mlx-mamba convert --dtype",
                    matrix.quantized->bits));
  }
  return matrix.weight;
}

}  // namespace

Spans right_padded(const std::vector<int>& lengths) {
  Spans spans;
  spans.reserve(lengths.size());
  for (const int length : lengths) {
    spans.push_back({0, length});
  }
  return spans;
}

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
    read_for_cpu_step();
  }
  if (ops::can_step_model(1, mx::to_stream({}))) {
    stack_layers();
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
      .residual_dtype = residual_dtype, .spans = to_array(options.spans), .resets = options.resets};
  block_options.constant_states = options.constant_states;
  block_options.backward_pieces = options.backward_pieces;
  const auto run = options.recompute ? run_block_recomputed : run_block;
  State next = state;
  BlockStream stream{.x = ops::dropout(embeddings, dropout.rate, dropout.seed, s),
                     .residual = std::nullopt,
                     .state = state.layers.front()};
  for (size_t i = 0; i < layers_.size(); ++i) {
    block_options.dropout = {dropout.rate, dropout.seed + i + 1};
    stream.state = state.layers[i];
    stream = run(layers_[i], derived_.empty() ? std::nullopt : std::optional(derived_[i]), stream, block_options, s);
    next.layers[i] = stream.state;
    const size_t at_once = dtype() == mx::float32 || embeddings.size() > kManyTokens * embeddings.shape(2) ? 1 : 4;
    if (options.pieces != nullptr && (i + 1) % at_once == 0) {
      options.pieces->push_back(*stream.residual);
    }
    if (options.evaluate) {
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
  return {x, std::move(next)};
}

mx::array MambaLM::logits(const mx::array& hidden, const std::optional<mx::array>& spans, mx::StreamOrDevice s) const {
  ops::LinearOptions options;
  options.spans = spans;
  options.out_dtype = mx::float32;
  if (wide_output_weight_) {
    return ops::linear(hidden, *wide_output_weight_, {}, options, s);
  }
  return output().multiply(hidden, {}, options, s);
}

void MambaLM::for_each_chunk(const mx::array& tokens, State& state, const ForwardOptions& options,
                             const OnChunk& on_chunk) const {
  ops::check_shape("MambaLM", "tokens", tokens, {state.batch(), -1});
  const int batch = tokens.shape(0);
  const int length = tokens.shape(1);
  // The walk happens on right-padded rows, so that a row's chunks begin where they would begin if it came alone.
  mx::array rows = tokens;
  std::optional<mx::array> resets = options.resets;
  std::optional<Spans> spans = options.spans;
  int longest = length;
  if (spans) {
    check_spans(*spans, batch, length);
    const bool aligned = std::all_of(spans->begin(), spans->end(), [](const Span& span) { return span.begin == 0; });
    if (!aligned) {
      rows = left_aligned(rows, *spans);
      if (resets) {
        resets = left_aligned(*resets, *spans);
      }
    }
    longest = 0;
    for (Span& span : *spans) {
      span = {0, span.end - span.begin};
      longest = std::max(longest, span.end);
    }
  }
  const bool on_cpu = ops::on_cpu(mx::to_stream({}));
  const int step = on_cpu ? kChunk : kGpuChunk;
  std::optional<mx::array> sent;
  for (int first = 0; first < longest; first += step) {
    const int last = std::min(longest, first + step);
    ForwardOptions chunk;
    chunk.evaluate = batch * (last - first) >= kManyPositions && on_cpu;
    if (spans) {
      chunk.spans.emplace();
      for (const Span& span : *spans) {
        chunk.spans->push_back({0, std::clamp(span.end - first, 0, last - first)});
      }
    }
    if (resets) {
      chunk.resets = mx::slice(*resets, {0, first}, {batch, last});
    }
    auto [h, next] = hidden(mx::slice(rows, {0, first}, {batch, last}), state, chunk);
    std::vector<mx::array> outputs = next.arrays();
    outputs.push_back(h);
    if (on_cpu) {
      mx::eval(outputs);
    } else {
      // One chunk ahead of the device, and no more, since all of them have their memory already.
      mx::async_eval(outputs);
      if (sent) {
        sent->wait();
      }
      sent = h;
    }
    state = std::move(next);
    on_chunk(first, h, chunk.spans);
  }
}

mx::array MambaLM::forward(const mx::array& tokens, State& state, const ForwardOptions& options) const {
  const int batch = tokens.shape(0);
  const int64_t length = tokens.shape(1);
  const int64_t vocab = config_.vocab_size;
  const size_t bytes = static_cast<size_t>(batch * length * vocab) * sizeof(float);
  mx::array out(mx::allocator::malloc(bytes), {batch, static_cast<int>(length), config_.vocab_size}, mx::float32);
  auto* data = out.data<float>();
  if (options.spans) {
    std::memset(data, 0, out.nbytes());
  }
  for_each_chunk(tokens, state, options, [&](int first, const mx::array& h, const std::optional<Spans>& spans) {
    mx::array chunk = logits(h, to_array(spans));
    mx::eval(chunk);
    const int64_t count = h.shape(1);
    for (int b = 0; b < batch; ++b) {
      const int64_t real = spans ? (*spans)[static_cast<size_t>(b)].end : count;
      const int64_t offset = options.spans ? (*options.spans)[static_cast<size_t>(b)].begin : 0;
      std::memcpy(data + (b * length + offset + first) * vocab, chunk.data<float>() + b * count * vocab,
                  static_cast<size_t>(real * vocab) * sizeof(float));
    }
  });
  return out;
}

mx::array MambaLM::prefill(const mx::array& tokens, State& state, const ForwardOptions& options) const {
  const int batch = tokens.shape(0);
  const mx::array none = mx::zeros({1, 1, config_.d_model}, dtype());
  std::vector<mx::array> last(static_cast<size_t>(batch), none);
  for_each_chunk(tokens, state, options, [&](int, const mx::array& h, const std::optional<Spans>& spans) {
    for (int b = 0; b < batch; ++b) {
      const int end = spans ? (*spans)[static_cast<size_t>(b)].end : h.shape(1);
      if (end > 0) {
        last[static_cast<size_t>(b)] = mx::slice(h, {b, end - 1, 0}, {b + 1, end, config_.d_model});
      }
    }
  });
  const mx::array rows = batch == 1 ? last.front() : mx::concatenate(last, 0);
  mx::array out = mx::reshape(logits(rows), {batch, config_.vocab_size});
  mx::eval(out);
  return out;
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
