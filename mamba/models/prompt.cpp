// How MambaLM walks through texts: in chunks, of which it keeps what is asked for.
#include <mlx/allocator.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "mamba/models/mamba.h"
#include "mamba/models/spans.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/gpu/upload.h"

namespace mamba::models {

namespace mx = mlx::core;

namespace {

// Where evaluating each layer, which waits a few microseconds for its kernels, is nothing beside their work.
constexpr int kManyPositions = 64;

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

// Row b of the result (B, d): that of the last token of h (B, L, d), or where there is none `before`'s.
mx::array last_rows(const mx::array& h, const std::optional<Spans>& spans, const mx::array& before) {
  const int batch = h.shape(0);
  const int length = h.shape(1);
  const int width = h.shape(2);
  if (!spans) {
    return mx::reshape(mx::slice(h, {0, length - 1, 0}, {batch, length, width}), {batch, width});
  }
  std::vector<int32_t> places;
  std::vector<int32_t> there;
  for (int b = 0; b < batch; ++b) {
    const int end = (*spans)[static_cast<size_t>(b)].end;
    places.push_back(b * length + std::max(end, 1) - 1);
    there.push_back(end > 0 ? 1 : 0);
  }
  const mx::Stream stream = mx::to_stream({});
  mx::array rows = mx::take(mx::reshape(h, {batch * length, width}), ops::gpu::uploaded(places, {batch}, stream), 0);
  if (std::find(there.begin(), there.end(), 0) != there.end()) {
    rows = mx::where(mx::astype(ops::gpu::uploaded(there, {batch, 1}, stream), mx::bool_), rows, before);
  }
  mx::async_eval(rows);  // or it would hold on to all chunks
  return rows;
}

}  // namespace

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
    chunk.evaluate = batch * (last - first) >= kManyPositions;
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
    mx::array chunk = logits(h, to_array(spans, {}));
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
  mx::array last = mx::zeros({batch, config_.d_model}, dtype());
  for_each_chunk(tokens, state, options,
                 [&](int, const mx::array& h, const std::optional<Spans>& spans) { last = last_rows(h, spans, last); });
  mx::array out = logits(last);
  if (ops::on_cpu(mx::to_stream({}))) {
    mx::eval(out);
  } else {
    mx::async_eval(out);  // whoever takes it has more to send
  }
  return out;
}

}  // namespace mamba::models
