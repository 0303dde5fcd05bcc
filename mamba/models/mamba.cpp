#include "mamba/models/mamba.h"

#include <mlx/allocator.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cstring>

#include "mamba/base/error.h"
#include "mamba/ops/causal_conv1d/causal_conv1d.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/linear/linear.h"
#include "mamba/ops/rms_norm/rms_norm.h"
#include "mamba/ops/selective_scan/selective_scan.h"

namespace mamba::models {

namespace mx = mlx::core;

namespace {

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

}  // namespace

Spans right_padded(const std::vector<int>& lengths) {
  Spans spans;
  spans.reserve(lengths.size());
  for (const int length : lengths) {
    spans.push_back({0, length});
  }
  return spans;
}

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
  return layers_.front().mixer.in_proj.weight.dtype();
}

void MambaLM::visit(const std::string& path, const nn::ParameterVisitor& visitor) {
  derived_.clear();
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

MambaLM::Derived MambaLM::derive(const Mixer& mixer, mx::StreamOrDevice s) const {
  const mx::array A_log = mx::astype(mixer.A_log, mx::float32, s);
  return {
      .A = mx::negative(mx::exp(A_log, s), s),
      .conv_weight = mx::reshape(mixer.conv1d.weight, {config_.d_inner, config_.d_conv}, s),
      .D = mx::astype(mixer.D, mx::float32, s),
      .dt_bias = mx::astype(*mixer.dt_proj.bias, mx::float32, s),
  };
}

void MambaLM::prepare() {
  std::vector<Derived> derived;
  std::vector<mx::array> arrays;
  for (const Block& block : layers_) {
    derived.push_back(derive(block.mixer, {}));
    const Derived& last = derived.back();
    arrays.insert(arrays.end(), {last.A, last.conv_weight, last.D, last.dt_bias});
  }
  mx::eval(arrays);
  derived_ = std::move(derived);
}

mx::array MambaLM::mix(const Mixer& mixer, const Derived& derived, const mx::array& x, LayerState& state,
                       const std::optional<mx::array>& spans, const std::optional<mx::array>& resets,
                       mx::StreamOrDevice s) const {
  const int inner = config_.d_inner;
  const int rank = config_.dt_rank;
  const int n = config_.d_state;
  const mx::array xz = mixer.in_proj(x, spans, false, s);  // (B, L, 2 D)
  const std::vector<mx::array> halves = mx::split(xz, mx::Shape{inner}, -1, s);
  const auto conv = ops::causal_conv1d({.x = halves[0],
                                        .weight = derived.conv_weight,
                                        .bias = mixer.conv1d.bias,
                                        .initial_state = state.conv,
                                        .spans = spans,
                                        .resets = resets,
                                        .silu = true},
                                       s);
  const mx::array dt_B_C = mixer.x_proj(conv.y, spans, false, s);  // (B, L, R + 2 N)
  const std::vector<mx::array> parts = mx::split(dt_B_C, mx::Shape{rank, rank + n}, -1, s);
  // dt_proj's bias goes into the scan, which adds it in float32.
  const mx::array delta = mixer.dt_proj.without_bias(parts[0], spans, s);
  const auto scan = ops::selective_scan({.u = conv.y,
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
  return mixer.out_proj(scan.y, spans, false, s);
}

std::pair<mx::array, State> MambaLM::hidden(const mx::array& tokens, const State& state, const ForwardOptions& options,
                                            mx::StreamOrDevice s) const {
  ops::check_shape("MambaLM", "tokens", tokens, {state.batch(), -1});
  return hidden_of(mx::astype(embeddings_(tokens, s), dtype(), s), state, options, s);
}

std::pair<mx::array, State> MambaLM::hidden_of(const mx::array& embeddings, const State& state,
                                               const ForwardOptions& options, mx::StreamOrDevice s) const {
  ops::check_shape("MambaLM", "embeddings", embeddings, {state.batch(), -1, config_.d_model});
  state.check_fits(config_);
  if (options.spans) {
    check_spans(*options.spans, embeddings.shape(0), embeddings.shape(1));
  }
  const std::optional<mx::array> spans = to_array(options.spans);
  const mx::Dtype residual_dtype = config_.residual_in_fp32 ? mx::float32 : dtype();
  State next = state;
  mx::array x = embeddings;  // (B, L, d_model)
  std::optional<mx::array> residual;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Block& block = layers_[i];
    auto [y, sum] = ops::rms_norm_add(x, residual, block.norm.weight, block.norm.eps, residual_dtype, s);
    residual = sum;
    const Derived derived = derived_.empty() ? derive(block.mixer, s) : derived_[i];
    x = mix(block.mixer, derived, y, next.layers[i], spans, options.resets, s);
  }
  x = ops::rms_norm_add(x, residual, norm_f_.weight, norm_f_.eps, residual_dtype, s).first;
  return {x, std::move(next)};
}

mx::array MambaLM::logits(const mx::array& hidden, const std::optional<mx::array>& spans, mx::StreamOrDevice s) const {
  ops::LinearOptions options;
  options.spans = spans;
  options.out_dtype = mx::float32;
  return ops::linear(hidden, output_weight(), {}, options, s);
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
  for (int first = 0; first < longest; first += kChunk) {
    const int last = std::min(longest, first + kChunk);
    ForwardOptions chunk;
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
    mx::eval(outputs);
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
