// The nodes of training_block in MLX's graph. Private to this folder.
#pragma once

#include <mlx/primitives.h>

#include <array>
#include <vector>

#include "mamba/ops/cpu/node.h"
#include "mamba/ops/dispatch.h"

namespace mamba::ops::training_block_detail {

enum Input : uint8_t {
  kX,
  kNorm,
  kInProj,
  kConvWeight,
  kXProj,
  kDtProj,
  kOutProj,
  kA,
  kD,
  kDtBias,
  kConvState,
  kSsmState,
  kOptional  // from here on, as they come: residual, convolution's bias, resets
};

enum Output : uint8_t {
  kY,
  kSum,
  kNextConv,
  kNextSsm,
  // For the gradients alone.
  kNormed,  // (B, L, M) T
  kXz,      // (B, L, 2 D) T
  kConv,    // (B, L, D) T
  kDtBC,    // (B, L, R + 2 N) T
  kDelta,   // (B, L, D) T
  kGated,   // (B, L, D) T
  kStates,  // selective_scan/kernel.h: Outputs::kept
  kOutputs
};

struct Settings {
  float eps = 0;
  // Index among the inputs, -1: absent.
  int residual = -1;
  int conv_bias = -1;
  int resets = -1;
  int inputs = kOptional;

  bool operator==(const Settings&) const = default;
};

// Inputs of the gradients' node: all of the block's, those outputs from kNormed on and the sum, then the cotangents of
// y and of the sum. Outputs: for each input that has a gradient (those before kConvState, the residual where it is
// wider than x, the bias) one of its shape; an empty one for each of the four projections that is not `wanted`.
struct GradientSettings {
  Settings block;
  std::array<bool, kOptional> wanted{};

  bool operator==(const GradientSettings&) const = default;
};

class TrainingBlock : public cpu::CpuNode<TrainingBlock, Settings> {
 public:
  static constexpr const char* kOp = "training_block";
  using CpuNode::CpuNode;

  void eval_cpu(const std::vector<mlx::core::array>& inputs, std::vector<mlx::core::array>& outputs) override;
  std::vector<mlx::core::array> vjp(const std::vector<mlx::core::array>& primals,
                                    const std::vector<mlx::core::array>& cotangents, const std::vector<int>& argnums,
                                    const std::vector<mlx::core::array>& outputs) override;
  const char* name() const override { return "TrainingBlock"; }
};

class TrainingBlockGradient : public cpu::CpuGradientNode<TrainingBlockGradient, GradientSettings> {
 public:
  static constexpr const char* kOp = "training_block";
  using CpuGradientNode::CpuGradientNode;

  void eval_cpu(const std::vector<mlx::core::array>& inputs, std::vector<mlx::core::array>& outputs) override;
  const char* name() const override { return "TrainingBlockGradient"; }
};

}  // namespace mamba::ops::training_block_detail
