// model_step: one token of each sequence through a whole Mamba in one launch, for generation on NVIDIA's GPUs, where a
// step of a small model costs what the host needs to send it.
//
//   tokens                 (B) or (B, n) int32, of which the first column counts
//   embeddings             (V, M) T
//   norm                   (L, M)
//   in_proj                (L, 2 D, M) T       rows of x, then of the gate z
//   conv_weight, conv_bias (L, D, K), (L, D)
//   x_proj                 (L, R + 2 N, D) T   dt, B, C
//   dt_proj, dt_bias       (L, D, R) T, (L, D) float32
//   A, D                   (L, D, N), (L, D) float32
//   out_proj               (L, M, D) T
//   norm_f, output         (M), (W, M) T
//   conv                   (L, B, K - 1, D) T, ssm (L, B, D, N) float32: before the token
//
//   logits                 (B, W) float32, and the states after the token
//
// The L blocks are those of ops/block_step; in float16 and bfloat16, too, a norm's result is rounded before it is
// multiplied, though before its row's factor. Sums are float32, and so are products of float32, each to 2^-21. The
// groups of the launch wait for one another, so all must fit on the device at once, no other stream may do the same,
// and of the launches that are evaluated together each must need the one before. Not differentiable; CPU streams serve
// tests (ops/gpu/kernel.h).
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <optional>

namespace mamba::ops {

struct ModelStepWeights {
  mlx::core::array embeddings;
  mlx::core::array norm;
  float eps;
  mlx::core::array in_proj;
  mlx::core::array conv_weight;
  std::optional<mlx::core::array> conv_bias;
  mlx::core::array x_proj;
  mlx::core::array dt_proj;
  mlx::core::array dt_bias;
  mlx::core::array A;
  mlx::core::array D;
  mlx::core::array out_proj;
  mlx::core::array norm_f;
  mlx::core::array output;
  mlx::core::Dtype residual_dtype;  // of the sum of what the blocks give: float32 or T
};

struct ModelStepOutputs {
  mlx::core::array logits;
  mlx::core::array conv;
  mlx::core::array ssm;
};

// Whether `stream` can run model_step() on `batch` sequences, faster than a launch for each operation would.
bool can_step_model(int batch, const mlx::core::Stream& stream);

ModelStepOutputs model_step(const mlx::core::array& tokens, const mlx::core::array& conv, const mlx::core::array& ssm,
                            const ModelStepWeights& weights, const mlx::core::Stream& stream);

// The same in operations of their own: the specification.
ModelStepOutputs model_step_reference(const mlx::core::array& tokens, const mlx::core::array& conv,
                                      const mlx::core::array& ssm, const ModelStepWeights& weights,
                                      const mlx::core::Stream& stream);

}  // namespace mamba::ops
