// linear_cross_entropy: how likely a model's output layer finds given tokens, and the loss made of that, without ever
// holding the logits (..., N).
//
//   x        (..., K)  float32, bfloat16 or float16: the last hidden states
//   W        (N, K)    float32, bfloat16 or float16: the output projection; N is the vocabulary
//   targets  (...)     int32, from 0 to N - 1, or ignore_index
//
//   log_probability[i] = x_i . W[t_i] - log sum_j exp(x_i . W_j)      (...) float32, in nats; 0 where t_i is ignored
//   cross_entropy[i]   = -w_i log_probability[i]                      (...) float32
//
// Products and sums are in float32. On GPUs, where x and W share a 16-bit dtype, logits are then kept as two numbers of
// it, 16 bits or more of the 24, and their gradients are rounded to it. Where oneDNN multiplies bfloat16 (x and W are
// bfloat16, and the processor has units for it), the gradient of each logit is rounded to bfloat16 before it is
// multiplied; sums stay in float32. A target outside the vocabulary gives NaN and no gradient. Ignored tokens, and
// tokens of weight 0, cost nothing; what x holds there, be it NaN, reaches neither results nor gradients.
//
// Memory: going forward a block of 512 tokens x 2048 logits at a time, whatever N; gradients keep the logits of as many
// tokens as fit 64 MiB (32 at least), and compute them again where the loss was computed before. On CPUs results and
// gradients are the same for any number of threads, and, except where oneDNN multiplies bfloat16, a token's result
// depends on nothing but the token, to the last bit.
//
// Differentiable in x and W, once.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>
#include <vector>

namespace mamba::ops {

struct LinearCrossEntropyOptions {
  int ignore_index = -100;
  std::optional<mlx::core::array> weights = {};  // (...), float32: w. Not differentiable.
};

// Both throw Error when shapes or dtypes do not fit.
mlx::core::array linear_log_probability(const mlx::core::array& x, const mlx::core::array& weight,
                                        const mlx::core::array& targets, int ignore_index = -100,
                                        mlx::core::StreamOrDevice s = {});

// The losses of the tokens; a mean over them is the caller's, who knows what to divide by.
mlx::core::array linear_cross_entropy(const mlx::core::array& x, const mlx::core::array& weight,
                                      const mlx::core::array& targets, const LinearCrossEntropyOptions& options = {},
                                      mlx::core::StreamOrDevice s = {});

struct LinearCrossEntropyGradients {
  mlx::core::array losses;                      // (...) float32, as linear_cross_entropy gives them
  mlx::core::array x;                           // like x: the gradient of scale * sum(losses)
  std::optional<mlx::core::array> weight = {};  // like W, where it was asked for
  // On GPUs: what pieces of the work end in, some for each piece of the tokens. MLX has memory for all that it has
  // sent, so whoever evaluates these one after another needs no more than a piece's logits.
  std::vector<mlx::core::array> pieces = {};
};

// What a training step needs, in one pass on GPUs and Linux CPUs: the logits are computed once, where asking
// linear_cross_entropy for its value and its gradients computes them twice. Not differentiable; to go on from the
// gradient of x, differentiate sum(x * stop_gradient(it)).
LinearCrossEntropyGradients linear_cross_entropy_gradients(const mlx::core::array& x, const mlx::core::array& weight,
                                                           const mlx::core::array& targets, float scale, bool of_weight,
                                                           const LinearCrossEntropyOptions& options = {},
                                                           mlx::core::StreamOrDevice s = {});

// linear_log_probability in plain MLX operations, with all logits in memory: the specification, and the tests' oracle.
mlx::core::array linear_log_probability_reference(const mlx::core::array& x, const mlx::core::array& weight,
                                                  const mlx::core::array& targets, int ignore_index = -100,
                                                  mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
