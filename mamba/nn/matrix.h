// A matrix of weights, as floats or in MLX's affine format (ops/quantized_linear). Checkpoints name the parts of a
// quantised one <path>.weight (the codes), <path>.scales and <path>.biases.
#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>
#include <string>

#include "mamba/nn/parameters.h"
#include "mamba/ops/product/product.h"
#include "mamba/ops/quantized_linear/packed.h"

namespace mamba::nn {

struct Matrix {
  // What makes a matrix a quantised one.
  struct Quantized {
    mlx::core::array scales = unset();  // (out, in / group_size)
    mlx::core::array biases = unset();  // (out, in / group_size)
    int group_size = 64;
    int bits = 8;
  };

  mlx::core::array weight = unset();  // (out, in) floats, or (out, in * bits / 32) codes in uint32
  std::optional<Quantized> quantized;
  // A quantised one in the order that kernels like; then `weight`, scales and biases are not set.
  std::optional<ops::PackedWeight> packed;
  // `weight` with what products on GPUs take of it, where that is kept.
  std::optional<ops::Operand> operand;

  int rows() const { return packed ? packed->rows() : weight.shape(0); }
  int columns() const;
  size_t bytes() const;  // of all parts, as checkpoints have them

  // As the op takes it; only of a quantised one that is not packed.
  ops::QuantizedWeight parts() const;
  void set_parts(const ops::QuantizedWeight& parts);
  // From one form into the other; unpack() does nothing where it is not packed.
  void set_packed(ops::PackedWeight weights);
  void unpack();

  // x W^T + bias as ops::linear() and ops::quantized_linear() have it.
  mlx::core::array multiply(const mlx::core::array& x, const std::optional<mlx::core::array>& bias,
                            const ops::LinearOptions& options = {}, mlx::core::StreamOrDevice s = {}) const;

  // Rows `indices` (...) int32, each in [0, rows()), as floats: (..., in). In `dtype` if given, else the stored one.
  mlx::core::array take(const mlx::core::array& indices, std::optional<mlx::core::Dtype> dtype = {},
                        mlx::core::StreamOrDevice s = {}) const;

  // All of it as floats: (out, in) in `dtype`.
  mlx::core::array dense(mlx::core::Dtype dtype, mlx::core::StreamOrDevice s = {}) const;

  // "weight", and of a quantised one "scales" and "biases"; of a packed one the tiles for "weight".
  void visit(const std::string& path, const ParameterVisitor& visitor);
};

}  // namespace mamba::nn
