// training_block: one block of a Mamba (residual, norm, mixer) as one node of the graph, and all its gradients as
// another, for training on CPUs. The bits are those of the operations that it is made of, ops/rms_norm, linear,
// causal_conv1d and selective_scan one by one; what is saved is what lies between nodes, and copies that join
// gradients.
//
//   x                      (B, L, M) T     what the block before gave
//   residual               (B, L, M) T or float32: the sum of what those before that gave; none: 0
//   norm                   (M)
//   in_proj                (2 D, M) T      rows of the convolution's input, then of the gate
//   conv_weight, conv_bias (D, K), (D)
//   x_proj                 (R + 2 N, D) T  dt, B, C
//   dt_proj, dt_bias       (D, R) T, (D) float32
//   A, D                   (D, N), (D) float32
//   out_proj               (M, D) T
//   conv                   (B, K - 1, D) T, ssm (B, D, N) float32: the states before; no gradient passes through them
//   resets                 (B, L) uint8: where a document begins
//
// Differentiable once, in everything else.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>

namespace mamba::ops {

struct TrainingBlockInputs {
  mlx::core::array x;
  std::optional<mlx::core::array> residual = {};
  mlx::core::array norm;
  float eps = 1e-5f;
  mlx::core::array in_proj;
  mlx::core::array conv_weight;
  std::optional<mlx::core::array> conv_bias = {};
  mlx::core::array x_proj;
  mlx::core::array dt_proj;
  mlx::core::array A;
  mlx::core::array D;
  mlx::core::array dt_bias;
  mlx::core::array out_proj;
  mlx::core::array conv;
  mlx::core::array ssm;
  std::optional<mlx::core::array> resets = {};
};

struct TrainingBlockOutputs {
  mlx::core::array y;         // (B, L, M) T
  mlx::core::array residual;  // (B, L, M): x, and the residual if there was one, in `residual_dtype`
  mlx::core::array conv;
  mlx::core::array ssm;
};

// Whether there is such a node for these. It keeps everything between forward and backward pass in memory at once, so
// not of many rows; and not of sequences so short that linear takes another kernel for them.
bool can_train_block(const TrainingBlockInputs& in, mlx::core::Dtype residual_dtype, mlx::core::StreamOrDevice s = {});

// Throws Error where shapes do not fit or can_train_block() says no. `residual_dtype`: float32 or T.
TrainingBlockOutputs training_block(const TrainingBlockInputs& in, mlx::core::Dtype residual_dtype,
                                    mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
