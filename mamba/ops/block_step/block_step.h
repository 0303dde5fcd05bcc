// block_step: one token of each sequence through one block of a Mamba (residual, norm, mixer), for generation.
//
//   h                      (B, M) float32 or T: the sum of what all blocks before gave
//   norm                   (M)
//   in_proj                (2 D, M) T       rows of x, then of the gate z
//   conv_weight, conv_bias (D, K), (D)
//   x_proj                 (R + 2 N, D) T   dt, B, C
//   dt_proj, dt_bias       (D, R) T, (D) float32
//   A, D                   (D, N), (D) float32
//   out_proj               (M, D) T
//   conv                   (B, K - 1, D) T, ssm (B, D, N) float32: before the token
//
//   h' = h + out_proj(mixer(norm(h))), and the states after the token
//
// with ops/rms_norm, causal_conv1d and selective_scan's equations, where what passes between layers is rounded to T as
// there, but not the norm's result. On GPUs `mixer_step` is what lies between the two large products in one launch, one
// sequence to a group; ops/model_step is more than that where the device allows it. Not differentiable; CPU streams
// serve tests (ops/gpu/kernel.h).
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <optional>

namespace mamba::ops {

struct MixerStepWeights {
  mlx::core::array conv_weight;
  std::optional<mlx::core::array> conv_bias;
  mlx::core::array x_proj;
  mlx::core::array dt_proj;
  mlx::core::array dt_bias;
  mlx::core::array A;
  mlx::core::array D;
};

struct BlockStepWeights {
  mlx::core::array norm;
  float eps;
  mlx::core::array in_proj;
  MixerStepWeights mixer;
  mlx::core::array out_proj;
};

struct StepOutputs {
  mlx::core::array y;  // h' or, of mixer_step, what goes into out_proj: (B, D) T
  mlx::core::array conv;
  mlx::core::array ssm;
};

// `xz` (B, 2 D) T: in_proj's result.
StepOutputs mixer_step(const mlx::core::array& xz, const mlx::core::array& conv, const mlx::core::array& ssm,
                       const MixerStepWeights& weights, const mlx::core::Stream& stream);

// The whole block in operations of their own: the specification.
StepOutputs block_step_reference(const mlx::core::array& h, const mlx::core::array& conv, const mlx::core::array& ssm,
                                 const BlockStepWeights& weights, const mlx::core::Stream& stream);

}  // namespace mamba::ops
