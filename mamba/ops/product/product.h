// Products of matrices on GPUs, float32 ones to float32's accuracy.
//
// NVIDIA's tensor cores multiply float32 numbers of which they read 11 bits (TF32), many times as fast as other units
// multiply them in full. So each number is taken as high + low, high its upper 11 bits and low the rest, rounded to 11,
// and x y as low high + high low + high high: one product of three times the length, smallest terms first. What is
// left out is at most 2^-19 of |x y|, typically 2^-22. Sums are float32, as the tensor cores make them. A number that
// is not finite is multiplied once, so infinities come out as float32 gives them; of numbers below 2^-126 multiples of
// 2^-136 are kept.
//
// That is done on NVIDIA's GPUs from compute capability 8 on, unless MLX_ENABLE_TF32=0 keeps MLX from TF32 altogether:
// then, and elsewhere, float32 products are MLX's. 16-bit matrices are multiplied by MLX; their products are exact.
//
// For GPU paths of other ops: nothing here is differentiable.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

namespace mamba::ops {

// A matrix (rows, columns) with what multiplying it takes, made once for all products of copies of this object. Both
// operands of a product have the same dtype.
class Operand {
 public:
  explicit Operand(mlx::core::array matrix);

  const mlx::core::array& matrix() const { return matrix_; }
  // A view (columns, rows).
  const mlx::core::array& transposed(const mlx::core::Stream& stream) const;
  // Of each of the pieces in which sums are made (rows, 3 columns / pieces): low, high, high; and the transpose of
  // high, low, high. One piece where they would not be equally long.
  const std::vector<mlx::core::array>& left(const mlx::core::Stream& stream) const;
  const std::vector<mlx::core::array>& right(const mlx::core::Stream& stream) const;
  // Of as many whole pieces of a sum as there are (pieces, columns, 3 rows): high, low, high of a piece's columns.
  mlx::core::array turned_right(const mlx::core::Stream& stream) const;
  // Makes what x y^T of any x takes of this y, so that nothing about it is left to be made by several threads at once.
  void prepare_right(const mlx::core::Stream& stream) const;

 private:
  struct Forms {
    std::optional<mlx::core::array> transposed = {}, turned_right = {};
    std::vector<mlx::core::array> left = {}, right = {};
  };
  mlx::core::array matrix_;
  std::shared_ptr<Forms> forms_;
};

// Whether there is room for Operand::prepare_right() of weights that take `bytes` in float32: three times as much, at
// most a sixteenth of the device's memory.
bool can_keep_operands(size_t bytes, const mlx::core::Stream& stream);

// Whether float32 products on `stream` are made of three.
bool splits_products(const mlx::core::Stream& stream);

// x y^T of x (M, K) and y (N, K).
mlx::core::array product_nt(const Operand& x, const Operand& y, const mlx::core::Stream& stream);

// x y of x (M, K) and y (K, N), and where it is given added to `sum` (M, N).
mlx::core::array product_nn(const Operand& x, const Operand& y, const mlx::core::Stream& stream,
                            const std::optional<mlx::core::array>& sum = {});

// x^T y of x (K, M) and y (K, N), likewise.
mlx::core::array product_tn(const Operand& x, const Operand& y, const mlx::core::Stream& stream,
                            const std::optional<mlx::core::array>& sum = {});

// x y^T, differentiable in both where they are arrays.
mlx::core::array differentiable_product_nt(const mlx::core::array& x, const mlx::core::array& y,
                                           const mlx::core::Stream& stream);

}  // namespace mamba::ops
