// One block of a Mamba: norm, mixer, and how they follow from the block before.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mamba/models/state.h"
#include "mamba/nn/layers.h"

namespace mamba::models {

// in_proj -> causal conv, SiLU -> x_proj -> dt_proj -> selective scan, gate -> out_proj
struct Mixer {
  nn::Linear in_proj;                    // (2 D, d_model): x, then the gate z
  nn::DepthwiseConv1d conv1d;            // (D, 1, K)
  nn::Linear x_proj;                     // (R + 2 N, D): dt, B, C
  nn::Linear dt_proj;                    // (D, R), with bias
  mlx::core::array A_log = nn::unset();  // (D, N); A = -exp(A_log)
  mlx::core::array D = nn::unset();      // (D)
  nn::Linear out_proj;                   // (d_model, D)

  void visit(const std::string& path, const nn::ParameterVisitor& visitor);
  void visit_linears(const std::string& path, const nn::LinearVisitor& visitor);
};

struct Block {
  nn::RmsNorm norm;
  Mixer mixer;

  void visit(const std::string& path, const nn::ParameterVisitor& visitor);
};

// What the ops take instead of the parameters themselves.
struct DerivedParameters {
  mlx::core::array A;            // (D, N) float32
  mlx::core::array conv_weight;  // (D, K)
  mlx::core::array D;            // (D) float32
  mlx::core::array dt_bias;      // (D) float32
};
DerivedParameters derive(const Mixer& mixer, mlx::core::StreamOrDevice s = {});

// What one block hands to the next, and the block's own memory.
struct BlockStream {
  mlx::core::array x;                        // (B, L, d_model), T: what the last block gave
  std::optional<mlx::core::array> residual;  // (B, L, d_model): the sum of what those before it gave
  LayerState state;                          // before the block: that of the text so far; after it: with this text
};

// Dropout of what each block gives, for training: ops/dropout/dropout.h.
struct Dropout {
  double rate = 0;
  uint64_t seed = 0;
};

// What all blocks of a model are told.
struct BlockOptions {
  mlx::core::Dtype residual_dtype = mlx::core::float32;
  std::optional<mlx::core::array> spans = {};   // (B, 2) int32
  std::optional<mlx::core::array> resets = {};  // (B, L) uint8
  Dropout dropout = {};
  bool constant_states = false;   // no gradient passes through them
  bool gradients_follow = false;  // at once, so that what they need may as well be kept
  std::vector<std::vector<mlx::core::array>>* backward_pieces = nullptr;  // ForwardOptions
};

// residual + x -> norm -> mixer. `derived`: the mixer's, where they are at hand.
BlockStream run_block(const Block& block, const std::optional<DerivedParameters>& derived, const BlockStream& in,
                      const BlockOptions& options, mlx::core::StreamOrDevice s = {});

// The same numbers and the same gradients, in `in` and in all parameters, adapters included. Nothing inside the block
// is kept for the backward pass: it computes the block again, once the gradients of what follows are there.
BlockStream run_block_recomputed(const Block& block, const std::optional<DerivedParameters>& derived,
                                 const BlockStream& in, const BlockOptions& options, mlx::core::StreamOrDevice s = {});

}  // namespace mamba::models
