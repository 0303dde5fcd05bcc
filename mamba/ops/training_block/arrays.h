// What both passes of training_block read. Private to this folder.
#pragma once

#include <mlx/backend/cpu/encoder.h>

#include <vector>

#include "mamba/ops/causal_conv1d/kernel.h"
#include "mamba/ops/linear/at_once.h"
#include "mamba/ops/selective_scan/kernel.h"
#include "mamba/ops/training_block/node.h"

namespace mamba::ops::training_block_detail {

using linear_detail::Matrix;
using linear_detail::MatrixPlace;

// What lies between the kernels, (B, L, ...) of T each.
struct Between {
  void* normed;  // (M)
  void* xz;      // (2 D)
  void* conv;    // (D)
  void* dt_B_C;  // (R + 2 N)
  void* delta;   // (D)
  void* gated;   // (D)
  float* states;
};

// A block as its kernels see it. Plain pointers: arrays live until what is dispatched has run.
struct Arrays {
  Arrays(const std::vector<mlx::core::array>& inputs, const Settings& settings,
         mlx::core::cpu::CommandEncoder& encoder);

  // To be called once, when it is known where that is.
  void place(const Between& places);

  int64_t projected() const { return rank + 2 * states; }
  // Floats that any of the projections works in.
  int64_t workspace_floats(const linear_detail::ProductsAtOnce& products) const;
  // `columns` columns from `first` on of rows that are `stride` elements apart.
  Matrix matrix(const void* data, int64_t stride, int64_t first = 0) const;
  MatrixPlace place_of(void* data, int64_t stride, int64_t first = 0) const;
  cpu::Rows rows(const void* data, int64_t stride, int64_t first = 0) const;
  void* at(void* data, int64_t element) const;

  int64_t batch, length, width, inner, rank, states, taps;
  float eps;
  cpu::Element element;
  linear_detail::Float type;
  cpu::Rows x, residual;
  cpu::Element residual_element;
  cpu::Numbers norm;
  float* wide_norm;
  Matrix in_proj, x_proj, dt_proj, out_proj;
  conv::Inputs conv;
  scan::Inputs scan;
  Between between{};
};

}  // namespace mamba::ops::training_block_detail
