#include "mamba/ops/linear_cross_entropy/linear_cross_entropy.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/linear/linear.h"
#include "mamba/ops/linear_cross_entropy/gpu.h"
#include "mamba/ops/linear_cross_entropy/primitive.h"
#include "mamba/ops/product/product.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace linear_cross_entropy_detail {

void check_arguments(const mx::array& x, const mx::array& weight, const mx::array& targets) {
  constexpr const char* kOp = "linear_cross_entropy";
  check_float(kOp, "x", x);
  check_float(kOp, "weight", weight);
  check(x.ndim() >= 1, "[{}] x must be (..., K) but is a scalar", kOp);
  check_shape(kOp, "weight", weight, {-1, x.shape(-1)});
  check(weight.shape(0) > 0, "[{}] weight must have a row for each token but is {}", kOp, shown(weight.shape()));
  const mx::Shape tokens(x.shape().begin(), x.shape().end() - 1);
  check(targets.shape() == tokens, "[{}] targets must be {} but got {}", kOp, shown(tokens), shown(targets.shape()));
  check(targets.dtype() == mx::int32, "[{}] targets must be int32", kOp);
}

}  // namespace linear_cross_entropy_detail

namespace {

// Split float32 logits and their gradient take two and a half times the memory.
int gpu_piece_tokens(const mx::array& x, const mx::array& weight, const mx::Stream& stream) {
  const bool narrow = x.dtype() == weight.dtype() && x.dtype() != mx::float32;
  return !narrow && splits_products(stream) ? 512 : 1024;
}

#ifdef __APPLE__
// MLX's own product is fast: a piece of the tokens at a time, its logits computed again for the gradient.
mx::array by_matmul(const mx::array& x, const mx::array& weight, const mx::array& targets, int ignore_index,
                    mx::Stream stream) {
  constexpr int kPieceTokens = 1024;
  const int width = x.shape(-1);
  const auto tokens = static_cast<int>(targets.size());
  const mx::array rows = mx::reshape(x, {tokens, width}, stream);
  const mx::array flat = mx::reshape(targets, {tokens}, stream);
  std::vector<mx::array> pieces;
  for (int begin = 0; begin < tokens; begin += kPieceTokens) {
    const int end = std::min(tokens, begin + kPieceTokens);
    const mx::array part = mx::slice(flat, {begin}, {end}, stream);
    // Targets are no argument: what is computed again is differentiated in all of these.
    const auto piece = mx::checkpoint([part, ignore_index, stream](const std::vector<mx::array>& in) {
      return std::vector{linear_log_probability_reference(in[0], in[1], part, ignore_index, stream)};
    });
    pieces.push_back(piece({mx::slice(rows, {begin, 0}, {end, width}, stream), weight})[0]);
  }
  const mx::array all = pieces.empty() ? mx::zeros({0}, mx::float32, stream) : mx::concatenate(pieces, 0, stream);
  return mx::reshape(all, targets.shape(), stream);
}
#endif

}  // namespace

mx::array linear_log_probability(const mx::array& x, const mx::array& weight, const mx::array& targets,
                                 int ignore_index, mx::StreamOrDevice s) {
  linear_cross_entropy_detail::check_arguments(x, weight, targets);
  const mx::Stream stream = mx::to_stream(s);
  if (on_cpu(stream)) {
#ifdef __APPLE__
    return by_matmul(x, weight, targets, ignore_index, stream);
#else
    return linear_cross_entropy_detail::forward(x, weight, targets, ignore_index, stream);
#endif
  }
  return linear_cross_entropy_detail::gpu_log_probability(x, weight, targets, ignore_index,
                                                          gpu_piece_tokens(x, weight, stream), stream);
}

namespace {

// -w as a factor of the log-probabilities, and the targets without those of weight 0.
struct Weighted {
  mx::array factor;
  mx::array targets;
};

Weighted weighted(const mx::array& targets, const LinearCrossEntropyOptions& options, mx::StreamOrDevice s) {
  if (!options.weights) {
    return {mx::array(-1.0f), targets};
  }
  const mx::array& weights = *options.weights;
  check(weights.shape() == targets.shape(), "[linear_cross_entropy] weights must be {} but got {}",
        shown(targets.shape()), shown(weights.shape()));
  check(weights.dtype() == mx::float32, "[linear_cross_entropy] weights must be float32");
  const mx::array fixed = mx::stop_gradient(weights, s);
  const mx::array unweighted = mx::equal(fixed, mx::array(0.0f), s);
  return {mx::negative(fixed, s), mx::where(unweighted, mx::array(options.ignore_index), targets, s)};
}

}  // namespace

mx::array linear_cross_entropy(const mx::array& x, const mx::array& weight, const mx::array& targets,
                               const LinearCrossEntropyOptions& options, mx::StreamOrDevice s) {
  const auto [factor, counted] = weighted(targets, options, s);
  return mx::multiply(factor, linear_log_probability(x, weight, counted, options.ignore_index, s), s);
}

LinearCrossEntropyGradients linear_cross_entropy_gradients(const mx::array& x, const mx::array& weight,
                                                           const mx::array& targets, float scale, bool of_weight,
                                                           const LinearCrossEntropyOptions& options,
                                                           mx::StreamOrDevice s) {
  linear_cross_entropy_detail::check_arguments(x, weight, targets);
  const mx::Stream stream = mx::to_stream(s);
  const Weighted tokens = weighted(targets, options, s);
  const mx::array cotangent = mx::broadcast_to(mx::multiply(tokens.factor, mx::array(scale), s), targets.shape(), s);
#ifndef __APPLE__
  if (on_cpu(stream)) {
    linear_cross_entropy_detail::Gradients gradients = linear_cross_entropy_detail::forward_and_backward(
        x, weight, tokens.targets, cotangent, options.ignore_index, true, of_weight, stream);
    return {.losses = mx::multiply(tokens.factor, gradients.log_probabilities, s),
            .x = *std::move(gradients.x),
            .weight = std::move(gradients.weight)};
  }
#endif
  if (!on_cpu(stream) && targets.size() > 0) {
    linear_cross_entropy_detail::GpuGradients gradients =
        linear_cross_entropy_detail::gpu_gradients(x, weight, tokens.targets, cotangent, options.ignore_index,
                                                   gpu_piece_tokens(x, weight, stream), of_weight, stream);
    return {.losses = mx::multiply(tokens.factor, gradients.log_probabilities, s),
            .x = std::move(gradients.x),
            .weight = std::move(gradients.weight),
            .pieces = std::move(gradients.pieces)};
  }
  const auto log_probabilities = [&](const std::vector<mx::array>& in) -> std::vector<mx::array> {
    return {linear_log_probability(in[0], in.size() > 1 ? in[1] : weight, tokens.targets, options.ignore_index, s)};
  };
  const std::vector<mx::array> primals = of_weight ? std::vector{x, weight} : std::vector{x};
  auto [values, gradients] = mx::vjp(log_probabilities, primals, {cotangent});
  LinearCrossEntropyGradients result{.losses = mx::multiply(tokens.factor, values[0], s), .x = gradients[0]};
  if (of_weight) {
    result.weight = gradients[1];
  }
  return result;
}

}  // namespace mamba::ops
