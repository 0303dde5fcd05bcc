#include <mlx/ops.h>

#include "mamba/ops/choose_token/choose_token.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

// Column i, (B, 1).
mx::array column(const mx::array& settings, int i, mx::StreamOrDevice s) {
  return mx::slice(settings, {0, i}, {settings.shape(0), i + 1}, s);
}

mx::array penalised(const ChooseTokenInputs& in, mx::StreamOrDevice s) {
  if (!in.seen) {
    return in.logits;
  }
  const mx::array penalty = column(in.settings, kRepetitionPenalty, s);
  const mx::array changed = mx::where(mx::less(in.logits, mx::array(0.0f), s), mx::multiply(in.logits, penalty, s),
                                      mx::divide(in.logits, penalty, s), s);
  return mx::where(mx::not_equal(*in.seen, mx::array(uint8_t{0}), s), changed, in.logits, s);
}

// Sums over what comes before along the last axis.
mx::array sums_before(const mx::array& a, mx::StreamOrDevice s) {
  return mx::cumsum(a, -1, false, false, s);
}

// exp(score - largest) of what top-k, top-p and min-p keep, else 0.
mx::array kept_weights(const mx::array& scores, const mx::array& settings, mx::StreamOrDevice s) {
  const int words = scores.shape(1);
  const mx::array order = mx::argsort(mx::negative(scores, s), -1, s);
  const mx::array descending = mx::take_along_axis(scores, order, -1, s);
  const mx::array largest = mx::slice(descending, {0, 0}, {scores.shape(0), 1}, s);
  mx::array weights = mx::exp(mx::subtract(descending, largest, s), s);

  const mx::array k = column(settings, kTopK, s);
  const mx::array last = mx::astype(
      mx::clip(mx::subtract(k, mx::array(1.0f), s), mx::array(0.0f), mx::array(words - 1.0f), s), mx::int32, s);
  const mx::array in_top_k =
      mx::logical_or(mx::greater_equal(descending, mx::take_along_axis(descending, last, -1, s), s),
                     mx::equal(k, mx::array(0.0f), s), s);
  weights = mx::where(in_top_k, weights, mx::array(0.0f), s);

  const mx::array p = column(settings, kTopP, s);
  const mx::array enough = mx::multiply(p, mx::sum(weights, -1, true, s), s);
  const mx::array in_top_p =
      mx::logical_or(mx::less(sums_before(weights, s), enough, s), mx::greater_equal(p, mx::array(1.0f), s), s);
  weights = mx::where(in_top_p, weights, mx::array(0.0f), s);
  const mx::array in_min_p = mx::greater_equal(weights, column(settings, kMinP, s), s);
  weights = mx::where(in_min_p, weights, mx::array(0.0f), s);
  return mx::take_along_axis(weights, mx::argsort(order, -1, s), -1, s);
}

// The token at which the sum of `weights`, in the draw's order, passes `draws` times all of it: (B, 1).
mx::array drawn(const mx::array& weights, const mx::array& draws, int order, mx::StreamOrDevice s) {
  const int rows = weights.shape(0);
  const int words = weights.shape(1);
  const int columns = (words + order - 1) / order;
  const mx::array padded = mx::pad(weights, {1}, {0}, {columns * order - words}, mx::array(0.0f), "constant", s);
  const auto reordered = [&](const mx::array& a) {
    return mx::reshape(mx::swapaxes(mx::reshape(a, {a.shape(0), columns, order}, s), 1, 2, s),
                       {a.shape(0), columns * order}, s);
  };
  const mx::array walk = reordered(padded);
  const mx::array ids = reordered(mx::reshape(mx::arange(columns * order, s), {1, columns * order}, s));
  const mx::array sums = mx::cumsum(walk, -1, false, true, s);
  const mx::array target = mx::multiply(mx::reshape(draws, {rows, 1}, s),
                                        mx::slice(sums, {0, columns * order - 1}, {rows, columns * order}, s), s);
  const mx::array passed = mx::logical_and(mx::greater(sums, target, s), mx::greater(walk, mx::array(0.0f), s), s);
  const mx::array at = mx::argmax(passed, -1, true, s);  // the first
  return mx::take_along_axis(mx::broadcast_to(ids, walk.shape(), s), at, -1, s);
}

}  // namespace

ChooseTokenOutputs choose_token_reference(const ChooseTokenInputs& in, mx::StreamOrDevice s, int order) {
  const mx::array temperature = column(in.settings, kTemperature, s);
  const mx::array is_greedy = mx::equal(temperature, mx::array(0.0f), s);
  const mx::array scores = penalised(in, s);
  const mx::array best = mx::astype(mx::argmax(scores, -1, true, s), mx::int32, s);
  const mx::array scaled = mx::divide(scores, mx::where(is_greedy, mx::array(1.0f), temperature, s), s);
  const mx::array random = mx::astype(drawn(kept_weights(scaled, in.settings, s), in.draws, order, s), mx::int32, s);
  const mx::array token = mx::where(is_greedy, best, random, s);  // (B, 1)
  const mx::array logprob =
      mx::subtract(mx::take_along_axis(in.logits, token, -1, s), mx::logsumexp(in.logits, -1, true, s), s);
  ChooseTokenOutputs out{mx::concatenate({token, mx::view(logprob, mx::int32, s)}, 1, s), std::nullopt};
  if (in.seen) {
    const mx::array ids = mx::arange(in.logits.shape(1), mx::int32, s);
    out.seen = mx::where(mx::equal(ids, token, s), mx::array(uint8_t{1}), *in.seen, s);
  }
  return out;
}

}  // namespace mamba::ops
