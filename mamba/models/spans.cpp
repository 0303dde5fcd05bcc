#include "mamba/models/spans.h"

#include <vector>

#include "mamba/base/error.h"
#include "mamba/ops/gpu/upload.h"

namespace mamba::models {

namespace mx = mlx::core;

Spans right_padded(const std::vector<int>& lengths) {
  Spans spans;
  spans.reserve(lengths.size());
  for (const int length : lengths) {
    spans.push_back({0, length});
  }
  return spans;
}

void check_spans(const Spans& spans, int batch, int length) {
  check(spans.size() == static_cast<size_t>(batch), "[MambaLM] got {} spans for {} rows", spans.size(), batch);
  for (const Span& span : spans) {
    check(0 <= span.begin && span.begin <= span.end && span.end <= length,
          "[MambaLM] span [{}, {}) does not lie in a row of {} positions", span.begin, span.end, length);
  }
}

std::optional<mx::array> to_array(const std::optional<Spans>& spans, mx::StreamOrDevice s) {
  if (!spans) {
    return std::nullopt;
  }
  std::vector<int32_t> flat;
  flat.reserve(spans->size() * 2);
  for (const Span& span : *spans) {
    flat.push_back(span.begin);
    flat.push_back(span.end);
  }
  return ops::gpu::uploaded(flat, {static_cast<int>(spans->size()), 2}, mx::to_stream(s));
}

}  // namespace mamba::models
