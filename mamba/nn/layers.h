// Layers: an op together with its parameters. Plain structs; a copy shares the arrays.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <functional>
#include <optional>
#include <string>

#include "mamba/nn/lora.h"
#include "mamba/nn/matrix.h"
#include "mamba/nn/parameters.h"

namespace mamba::nn {

// y = x W^T + b, and what a low-rank adapter adds. W (out, in), floats or quantised; bias (out).
struct Linear : Matrix {
  std::optional<mlx::core::array> bias;
  std::optional<Lora> lora;  // no parameter of this layer: visit() passes it by

  // x (..., in) -> (..., out) in x's dtype, or float32 when `float32_out`. `spans`: ops/linear/linear.h.
  mlx::core::array operator()(const mlx::core::array& x, const std::optional<mlx::core::array>& spans = {},
                              bool float32_out = false, mlx::core::StreamOrDevice s = {}) const;
  // The same, but the bias is left to whoever takes the result.
  mlx::core::array without_bias(const mlx::core::array& x, const std::optional<mlx::core::array>& spans = {},
                                mlx::core::StreamOrDevice s = {}) const;
  void visit(const std::string& path, const ParameterVisitor& visitor);
};

// Called with "backbone.layers.0.mixer.in_proj" and the layer.
using LinearVisitor = std::function<void(const std::string& path, Linear& layer)>;
// The same of whatever may be quantised: linear layers, embeddings.
using MatrixVisitor = std::function<void(const std::string& path, Matrix& matrix)>;

// x / sqrt(mean(x^2) + eps) * weight over the last axis. weight (d).
struct RmsNorm {
  mlx::core::array weight = unset();
  float eps = 1e-5f;

  void visit(const std::string& path, const ParameterVisitor& visitor);
};

// Rows of a matrix (vocab, d) by token id.
struct Embedding : Matrix {
  // tokens (B, L) int32, each in [0, vocab) -> (B, L, d), in `dtype` if given, else the stored one
  mlx::core::array operator()(const mlx::core::array& tokens, std::optional<mlx::core::Dtype> dtype = {},
                              mlx::core::StreamOrDevice s = {}) const;
};

// Depthwise convolution over time. weight (d, 1, k) as checkpoints hold it, bias (d).
struct DepthwiseConv1d {
  mlx::core::array weight = unset();
  std::optional<mlx::core::array> bias;

  void visit(const std::string& path, const ParameterVisitor& visitor);
};

}  // namespace mamba::nn
