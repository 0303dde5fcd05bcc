// A piece of the tokens at a time: MLX's matrix product makes the logits, one kernel their log-probabilities. Backwards
// the logits are made again and one kernel turns them into their gradient. Where value and gradients are wanted at
// once, one kernel gives both from the same logits.
#include "mamba/ops/linear_cross_entropy/gpu.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <vector>

#include "mamba/ops/accumulate/accumulate.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::embedded {
std::string_view gpu_loss_forward();
std::string_view gpu_loss_gradient();
std::string_view gpu_loss_both();
}  // namespace mamba::embedded

namespace mamba::ops::linear_cross_entropy_detail {

namespace mx = mlx::core;
using gpu::Kernel;

namespace {

constexpr int kThreads = 256;
constexpr int kPer = 4;

const Kernel& forward_kernel() {
  static const Kernel kernel("mamba_loss_forward", embedded::gpu_loss_forward(), {"logits", "targets"},
                             {"log_probability", "log_sums"});
  return kernel;
}

const Kernel& gradient_kernel() {
  static const Kernel kernel("mamba_loss_gradient", embedded::gpu_loss_gradient(),
                             {"logits", "targets", "log_sums", "cotangent"}, {"gradient"});
  return kernel;
}

const Kernel& both_kernel() {
  static const Kernel kernel("mamba_loss_both", embedded::gpu_loss_both(), {"logits", "rest", "targets", "cotangent"},
                             {"log_probability", "gradient"});
  return kernel;
}

struct Plan {
  int tokens, width, words, ignored, piece;
  mx::Stream s;

  // Constants are part of a kernel's name and cannot be negative, as ignored tokens usually are.
  int ignored_high() const { return (ignored >> 16) & 0xffff; }
  int ignored_low() const { return ignored & 0xffff; }

  // Tokens [begin, end) of an array whose first axis counts them.
  mx::array part(const mx::array& a, int begin) const {
    mx::Shape start(a.ndim(), 0);
    mx::Shape stop = a.shape();
    start[0] = begin;
    stop[0] = std::min(begin + piece, tokens);
    return mx::slice(a, start, stop, s);
  }

  // 16-bit numbers are exact in float32's product, whose result is not rounded to 16 bits.
  mx::array logits(const mx::array& rows, const mx::array& wide_weight) const {
    return mx::matmul(mx::astype(rows, mx::float32, s), mx::transpose(wide_weight, s), s);
  }
};

// Rows that do not count may hold anything, and 0 x NaN would leak into the weights' gradient.
mx::array counted_rows(const Plan& plan, const mx::array& x, const mx::array& targets) {
  const mx::Stream& s = plan.s;
  const mx::array known = mx::logical_and(
      mx::not_equal(targets, mx::array(plan.ignored), s),
      mx::logical_and(mx::greater_equal(targets, mx::array(0), s), mx::less(targets, mx::array(plan.words), s), s), s);
  return mx::where(mx::expand_dims(known, 1, s), x, mx::array(0, x.dtype()), s);
}

// Inputs: x (tokens, K), the weight, targets (tokens,). Outputs: log-probabilities and logarithms of sums, (tokens,).
std::vector<mx::array> forward(const Plan& plan, const std::vector<mx::array>& in) {
  const mx::array rows = counted_rows(plan, in[0], in[2]);
  const mx::array weight = mx::astype(in[1], mx::float32, plan.s);
  std::vector<mx::array> log_probabilities;
  std::vector<mx::array> log_sums;
  for (int begin = 0; begin < plan.tokens; begin += plan.piece) {
    mx::array logits = plan.logits(plan.part(rows, begin), weight);
    if (!log_sums.empty()) {
      logits = mx::depends({logits}, {log_sums.back()})[0];  // one piece at a time
    }
    const int count = logits.shape(0);
    const std::vector<mx::array> out = forward_kernel()(
        {logits, gpu::contiguous(plan.part(in[2], begin), plan.s)}, {{count}, {count}}, {mx::float32, mx::float32},
        {{count, 1, 1}, kThreads},
        {{"kThreads", kThreads}, {"kIgnoredHigh", plan.ignored_high()}, {"kIgnoredLow", plan.ignored_low()}}, plan.s);
    log_probabilities.push_back(out[0]);
    log_sums.push_back(out[1]);
  }
  return {mx::concatenate(log_probabilities, 0, plan.s), mx::concatenate(log_sums, 0, plan.s)};
}

std::vector<mx::array> backward(const Plan& plan, const std::vector<mx::array>& in, const mx::array& cotangent,
                                const mx::array& log_sums) {
  const mx::Stream& s = plan.s;
  const mx::array rows = counted_rows(plan, in[0], in[2]);
  const mx::array weight = mx::astype(in[1], mx::float32, s);
  const mx::Dtype dtype = in[0].dtype() == in[1].dtype() ? in[0].dtype() : mx::float32;
  const mx::array factor = mx::astype(in[1], dtype, s);
  std::vector<mx::array> gx;
  std::optional<mx::array> gweight;
  for (int begin = 0; begin < plan.tokens; begin += plan.piece) {
    const mx::array part = plan.part(rows, begin);
    mx::array logits = plan.logits(part, weight);
    if (gweight) {
      logits = mx::depends({logits}, {*gweight})[0];
    }
    const int count = logits.shape(0);
    const auto whole = [&](const mx::array& a) { return gpu::contiguous(plan.part(a, begin), s); };
    const mx::array gradient =
        gradient_kernel()({logits, whole(in[2]), whole(log_sums), whole(cotangent)}, {logits.shape()}, {dtype},
                          {{(plan.words + kThreads * kPer - 1) / (kThreads * kPer), count, 1}, kThreads},
                          {{"T", dtype},
                           {"kThreads", kThreads},
                           {"kPer", kPer},
                           {"kIgnoredHigh", plan.ignored_high()},
                           {"kIgnoredLow", plan.ignored_low()}},
                          s)[0];
    const mx::array turned = mx::transpose(gradient, s);
    const mx::array share = mx::astype(part, dtype, s);
    if (dtype == mx::float32) {
      gweight = gweight ? mx::addmm(*gweight, turned, share, 1.0f, 1.0f, s) : mx::matmul(turned, share, s);
    } else {
      const mx::array more = mx::matmul(turned, share, s);
      gweight = gweight ? accumulate(*gweight, more, s) : mx::astype(more, mx::float32, s);
    }
    gx.push_back(mx::depends({mx::matmul(gradient, factor, s)}, {*gweight})[0]);
  }
  return {mx::astype(mx::concatenate(gx, 0, s), in[0].dtype(), s), mx::astype(*gweight, in[1].dtype(), s),
          mx::zeros_like(in[2], s)};
}

// A product of 16-bit numbers on the units made for them, with twice the 8 or 11 bits that a result has there: a second
// product makes the first one's rounding error.
std::pair<mx::array, mx::array> split_product(const mx::array& a, const mx::array& b, const mx::Stream& s) {
  const mx::array high = mx::matmul(a, b, s);
  return {high, mx::addmm(high, a, b, 1.0f, -1.0f, s)};
}

}  // namespace

GpuGradients gpu_gradients(const mx::array& x, const mx::array& weight, const mx::array& targets,
                           const mx::array& cotangent, int ignore_index, int piece_tokens, bool of_weight,
                           const mx::Stream& s) {
  const auto tokens = static_cast<int>(targets.size());
  const Plan plan{tokens, x.shape(-1), weight.shape(0), ignore_index, piece_tokens, s};
  const bool narrow = x.dtype() == weight.dtype() && x.dtype() != mx::float32;
  const mx::Dtype dtype = narrow ? x.dtype() : mx::float32;
  const mx::array flat_targets = mx::reshape(targets, {tokens}, s);
  const mx::array flat_cotangent = mx::reshape(cotangent, {tokens}, s);
  const mx::array rows =
      mx::astype(counted_rows(plan, mx::reshape(x, {tokens, plan.width}, s), flat_targets), dtype, s);
  const mx::array factor = mx::astype(weight, dtype, s);
  const mx::array columns = mx::transpose(factor, s);
  std::vector<mx::array> log_probabilities;
  std::vector<mx::array> gx;
  std::optional<mx::array> gweight;
  for (int begin = 0; begin < tokens; begin += plan.piece) {
    mx::array part = plan.part(rows, begin);
    if (!gx.empty()) {
      part = mx::depends({part}, {gx.back()})[0];  // one piece at a time
    }
    const auto [logits, rest] =
        narrow ? split_product(part, columns, s) : std::pair(mx::matmul(part, columns, s), mx::array({0.0f}));
    const int count = part.shape(0);
    const auto whole = [&](const mx::array& a) { return gpu::contiguous(plan.part(a, begin), s); };
    const std::vector<mx::array> out =
        both_kernel()({logits, rest, whole(flat_targets), whole(flat_cotangent)}, {{count}, logits.shape()},
                      {mx::float32, dtype}, {{count, 1, 1}, kThreads},
                      {{"T", dtype},
                       {"kThreads", kThreads},
                       {"kPair", narrow},
                       {"kIgnoredHigh", plan.ignored_high()},
                       {"kIgnoredLow", plan.ignored_low()}},
                      s);
    log_probabilities.push_back(out[0]);
    gx.push_back(mx::matmul(out[1], factor, s));
    if (of_weight) {
      const mx::array turned = mx::transpose(out[1], s);
      if (narrow) {
        const mx::array more = mx::matmul(turned, part, s);
        gweight = gweight ? accumulate(*gweight, more, s) : mx::astype(more, mx::float32, s);
      } else {
        gweight = gweight ? mx::addmm(*gweight, turned, part, 1.0f, 1.0f, s) : mx::matmul(turned, part, s);
      }
      gx.back() = mx::depends({gx.back()}, {*gweight})[0];
    }
  }
  const mx::array all = mx::concatenate(log_probabilities, 0, s);
  GpuGradients result{.log_probabilities = mx::reshape(all, targets.shape(), s),
                      .x = mx::reshape(mx::astype(mx::concatenate(gx, 0, s), x.dtype(), s), x.shape(), s)};
  if (gweight) {
    result.weight = mx::astype(*gweight, weight.dtype(), s);
  }
  result.pieces = std::move(gx);
  return result;
}

mx::array gpu_log_probability(const mx::array& x, const mx::array& weight, const mx::array& targets, int ignore_index,
                              int piece_tokens, const mx::Stream& stream) {
  const auto tokens = static_cast<int>(targets.size());
  if (tokens == 0) {
    return mx::zeros(targets.shape(), mx::float32, stream);
  }
  const Plan plan{tokens, x.shape(-1), weight.shape(0), ignore_index, piece_tokens, stream};
  const auto run = mx::custom_vjp(
      [plan](const std::vector<mx::array>& primals) { return forward(plan, primals); },
      [plan](const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
             const std::vector<mx::array>& outputs) { return backward(plan, primals, cotangents[0], outputs[1]); });
  const mx::array out =
      run({mx::reshape(x, {tokens, plan.width}, stream), weight, mx::reshape(targets, {tokens}, stream)})[0];
  return mx::reshape(out, targets.shape(), stream);
}

}  // namespace mamba::ops::linear_cross_entropy_detail
