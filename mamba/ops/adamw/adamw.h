// One step of AdamW (Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2), fused: each
// array is read and written once. Element for element, with g the gradient times gradient_scale, at step t = 1, 2, ...:
//
//   m' = beta1 m + (1 - beta1) g
//   v' = beta2 v + (1 - beta2) g^2
//   p' = (1 - lr weight_decay) p - lr / (1 - beta1^t) * m' / (sqrt(v' / (1 - beta2^t)) + eps)
//
// which is torch.optim.AdamW; and, where an average of the parameters over the steps is kept,
//
//   a' = average_decay a + (1 - average_decay) p'
//
// Everything is computed in float32, the factors that depend on t alone in float64.
//
// Not differentiable.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace mamba::ops {

// Where the caller gives up its own copies of parameter, m, v and average (moves them in and holds them nowhere else),
// their memory is taken over by the results; so an optimiser needs no second copy of its state. They are evaluated by
// the call.
struct AdamWInputs {
  mlx::core::array parameter;                              // any shape, float32
  mlx::core::array gradient;                               // the same shape; float32, bfloat16 or float16
  mlx::core::array m;                                      // the same shape, float32; zeros before the first step
  mlx::core::array v;                                      // likewise
  std::optional<mlx::core::array> average = std::nullopt;  // the same shape, float32
  // (), float32: what the gradient is multiplied with, to clip it or to average over accumulated batches.
  std::optional<mlx::core::array> gradient_scale = std::nullopt;
};

struct AdamWOptions {
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.01;
  int64_t step = 1;  // counts from 1
  double average_decay = 0;
  // Also gives the new parameter rounded to this dtype: bfloat16 or float16, for mixed precision.
  std::optional<mlx::core::Dtype> copy_dtype = std::nullopt;
  // On a CPU: an update of a large array may be done later, beside products, which leave memory idle, and at the latest
  // when one of its results is evaluated. Of several the one with the lowest rank comes first.
  std::optional<int64_t> later_rank = std::nullopt;
};

struct AdamWOutputs {
  mlx::core::array parameter;
  mlx::core::array m;
  mlx::core::array v;
  std::optional<mlx::core::array> average;
  std::optional<mlx::core::array> copy;  // where copy_dtype is given
  // Where the update is done later: evaluated, it lets others begin, and gives nothing to read.
  std::optional<mlx::core::array> begun = std::nullopt;
};

// Throws Error with the values when shapes, dtypes or options do not fit.
AdamWOutputs adamw(AdamWInputs in, const AdamWOptions& options, mlx::core::StreamOrDevice s = {});

// The same for many arrays. On GPUs an optimiser uses FlatAdamW (flat.h).
std::vector<AdamWOutputs> adamw_all(std::vector<AdamWInputs> in, const std::vector<AdamWOptions>& options,
                                    mlx::core::StreamOrDevice s = {});

// The same in plain MLX operations: the specification, and the oracle of the tests.
AdamWOutputs adamw_reference(const AdamWInputs& in, const AdamWOptions& options, mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
