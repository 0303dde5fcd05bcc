// A piece of the tokens at a time: MLX's matrix product makes the logits, one kernel their log-probabilities. Backwards
// the logits are made again and one kernel turns them into their gradient. Where value and gradients are wanted at
// once, one kernel gives both from the same logits.
#include "mamba/ops/linear_cross_entropy/gpu.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <vector>

#include "mamba/ops/accumulate/accumulate.h"
#include "mamba/ops/gpu/driver.h"
#include "mamba/ops/gpu/kernel.h"
#include "mamba/ops/product/gpu.h"
#include "mamba/ops/product/product.h"

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

// `staged`: by groups of 1024 threads.
const Kernel& both_kernel(bool staged) {
  const auto make = [](const char* name, int registers) {
    return Kernel(name, embedded::gpu_loss_both(), {"logits", "rest", "targets", "cotangent"},
                  {"log_probability", "gradient"}, registers);
  };
  static const Kernel kernel = make("mamba_loss_both", 0);
  static const Kernel large = make("mamba_loss_both_staged", 64);
  return staged ? large : kernel;
}

// Whether a group can have a row of so many logits of 16 bits in shared memory, beside what the kernel names itself.
// For tests on the host: up to 4096. Split float32 logits took 0.44 ms like that instead of 0.33.
bool can_stage(int words, const mx::Stream& s) {
  static const int most = gpu::device_attribute(gpu::DeviceAttribute::kMostSharedOfAGroup);
  constexpr int kNamed = 1024;
  return words % 8 == 0 && words <= (s.device == mx::Device::cpu ? 4096 : (most - kNamed) / 4);
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

  // Numbers of 16 bits are exact as TF32, and so is a float32 product of them, which is not rounded to 16 bits.
  mx::array logits(const mx::array& rows, const mx::array& weight, const Operand& wide_weight) const {
    const mx::array wide = mx::astype(rows, mx::float32, s);
    const bool is_exact = rows.dtype() != mx::float32 && weight.dtype() != mx::float32;
    return is_exact ? mx::matmul(wide, mx::transpose(wide_weight.matrix(), s), s)
                    : product_nt(Operand(wide), wide_weight, s);
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
  const Operand weight(mx::astype(in[1], mx::float32, plan.s));
  std::vector<mx::array> log_probabilities;
  std::vector<mx::array> log_sums;
  for (int begin = 0; begin < plan.tokens; begin += plan.piece) {
    mx::array logits = plan.logits(plan.part(rows, begin), in[1], weight);
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
  const Operand weight(mx::astype(in[1], mx::float32, s));
  const mx::Dtype dtype = in[0].dtype() == in[1].dtype() ? in[0].dtype() : mx::float32;
  const Operand factor(mx::astype(in[1], dtype, s));
  std::vector<mx::array> gx;
  std::optional<mx::array> gweight;
  for (int begin = 0; begin < plan.tokens; begin += plan.piece) {
    const mx::array part = plan.part(rows, begin);
    mx::array logits = plan.logits(part, in[1], weight);
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
    const Operand of_logits(gradient);
    const Operand share(mx::astype(part, dtype, s));
    if (dtype == mx::float32) {
      gweight = product_tn(of_logits, share, s, gweight);
    } else {
      const mx::array more = product_tn(of_logits, share, s);
      gweight = gweight ? accumulate(*gweight, more, s) : mx::astype(more, mx::float32, s);
    }
    gx.push_back(mx::depends({product_nn(of_logits, factor, s)}, {*gweight})[0]);
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

mx::array rows_of(const mx::array& a, int from, int to, const mx::Stream& s) {
  return mx::slice(a, {from, 0}, {to, a.shape(1)}, s);
}

// float32 numbers as ops/product has them, high and low. The weight's are kept once for logits and gradients, where one
// product of three times the length would need them six times. Words come in pieces, so that sums over them, which
// tensor cores round down at each step, are short.
struct SplitWeight {
  int words, pieces, piece_words;
  mx::array both;  // (2 pieces piece_words, K): all of high, then of low, zeros behind the last word
  mx::Stream s;

  static SplitWeight of(const mx::array& weight, const mx::Stream& s) {
    constexpr int kMostWords = 4096;
    const int words = weight.shape(0);
    int pieces = (words + kMostWords - 1) / kMostWords;
    // As many as divide the words into whole lines of memory, if there is such a number near.
    for (int more = pieces; more < 2 * pieces; ++more) {
      if (words % (4 * more) == 0) {
        pieces = more;
        break;
      }
    }
    const int piece_words = ((words + pieces - 1) / pieces + 3) / 4 * 4;
    const int padding = pieces * piece_words - words;
    const mx::array padded =
        padding == 0 ? weight : mx::pad(weight, {{0, padding}, {0, 0}}, mx::array(0.0f), "constant", s);
    return {words, pieces, piece_words, product_detail::gpu_split(padded, {.count = 2, .low = 1, .blocks = true}, s),
            s};
  }

  mx::array part(bool low, int rows) const {
    const int from = low ? pieces * piece_words : 0;
    return rows_of(both, from, from + rows, s);
  }
  mx::array in_pieces(const mx::array& a) const { return mx::reshape(a, {pieces, piece_words, a.shape(-1)}, s); }

  // Logits of x, given as its high, low and once more its high parts (3 rows, K), and what has to be added to them.
  std::pair<mx::array, mx::array> logits(const mx::array& x) const {
    const int rows = x.shape(0) / 3;
    const mx::array x_high = rows_of(x, 0, rows, s);
    const mx::array x_low = rows_of(x, rows, 2 * rows, s);
    const mx::array high = mx::transpose(part(false, words), s);
    const mx::array low = mx::transpose(part(true, words), s);
    return {mx::matmul(x_high, high, s), mx::addmm(mx::matmul(x_low, high, s), x_high, low, 1.0f, 1.0f, s)};
  }

  // Of the gradient of logits g (pieces, 3 rows, piece_words), its low, high and once more its high parts.
  mx::array of_x(const mx::array& g) const {
    const int rows = g.shape(1) / 3;
    const auto of_rows = [&](int from, int to) { return mx::slice(g, {0, from, 0}, {pieces, to, piece_words}, s); };
    const mx::array high = in_pieces(part(false, pieces * piece_words));
    const mx::array low = in_pieces(part(true, pieces * piece_words));
    const mx::array sums = mx::reshape(mx::matmul(of_rows(0, 2 * rows), high, s), {2 * pieces, rows, high.shape(2)}, s);
    return product_detail::gpu_sum({sums, mx::matmul(of_rows(2 * rows, 3 * rows), low, s)}, s);
  }

  // g^T x of the same x, added to `sum` (pieces, piece_words, K).
  mx::array of_weight(const mx::array& g, const mx::array& x, const std::optional<mx::array>& sum) const {
    const mx::array turned = mx::transpose(g, {0, 2, 1}, s);
    const mx::array every = mx::broadcast_to(x, {pieces, x.shape(0), x.shape(1)}, s);
    return sum ? mx::addmm(*sum, turned, every, 1.0f, 1.0f, s) : mx::matmul(turned, every, s);
  }

  mx::array without_padding(const mx::array& gradient) const {
    const mx::array all = mx::reshape(gradient, {pieces * piece_words, gradient.shape(2)}, s);
    return pieces * piece_words == words ? all : rows_of(all, 0, words, s);
  }
};

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
  const bool split = !narrow && splits_products(s);
  const auto split_weight = split ? std::optional(SplitWeight::of(factor, s)) : std::nullopt;
  const int pieces = split ? split_weight->pieces : 0;
  const int piece_words = split ? split_weight->piece_words : 1;
  const bool staged = narrow && can_stage(plan.words, s);
  const int threads = staged && s.device != mx::Device::cpu ? 1024 : kThreads;
  std::vector<mx::array> log_probabilities;
  std::vector<mx::array> gx;
  std::vector<mx::array> work;
  std::optional<mx::array> gweight;
  for (int begin = 0; begin < tokens; begin += plan.piece) {
    mx::array part = plan.part(rows, begin);
    if (!gx.empty()) {
      part = mx::depends({part}, {gx.back()})[0];  // one piece at a time
    }
    const int count = part.shape(0);
    if (split) {
      part = product_detail::gpu_split(part, {.count = 3, .low = 1, .blocks = true}, s);
    }
    const auto [logits, rest] = split    ? split_weight->logits(part)
                                : narrow ? split_product(part, columns, s)
                                         : std::pair(mx::matmul(part, columns, s), mx::array({0.0f}));
    const auto of_piece = [&](const mx::array& a) { return gpu::contiguous(plan.part(a, begin), s); };
    const std::vector<mx::array> out =
        both_kernel(staged)({logits, rest, of_piece(flat_targets), of_piece(flat_cotangent)},
                            {{count}, split ? mx::Shape{pieces, 3 * count, piece_words} : mx::Shape{count, plan.words}},
                            {mx::float32, dtype}, {{count, 1, 1}, threads, staged ? 4 * plan.words : 0},
                            {{"T", dtype},
                             {"kThreads", threads},
                             {"kLines", staged},
                             {"kStaged", staged ? plan.words : 0},
                             {"kPair", narrow || split},
                             {"kPieces", pieces},
                             {"kPieceWords", piece_words},
                             {"kIgnoredHigh", plan.ignored_high()},
                             {"kIgnoredLow", plan.ignored_low()}},
                            s);
    work.insert(work.end(), {rest.has_primitive() ? rest : logits, out[1]});
    log_probabilities.push_back(out[0]);
    gx.push_back(split ? split_weight->of_x(out[1]) : mx::matmul(out[1], factor, s));
    if (of_weight) {
      const mx::array turned = split ? out[1] : mx::transpose(out[1], s);
      if (narrow) {
        const mx::array more = mx::matmul(turned, part, s);
        gweight = gweight ? accumulate(*gweight, more, s) : mx::astype(more, mx::float32, s);
      } else {
        gweight = split     ? split_weight->of_weight(out[1], part, gweight)
                  : gweight ? mx::addmm(*gweight, turned, part, 1.0f, 1.0f, s)
                            : mx::matmul(turned, part, s);
      }
      gx.back() = mx::depends({gx.back()}, {*gweight})[0];
    }
    work.push_back(gx.back());
  }
  const mx::array all = mx::concatenate(log_probabilities, 0, s);
  GpuGradients result{.log_probabilities = mx::reshape(all, targets.shape(), s),
                      .x = mx::reshape(mx::astype(mx::concatenate(gx, 0, s), x.dtype(), s), x.shape(), s)};
  if (gweight) {
    result.weight = mx::astype(split ? split_weight->without_padding(*gweight) : *gweight, weight.dtype(), s);
  }
  result.pieces = std::move(work);
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
