// Inside product: its kernels. CPU streams serve tests (ops/gpu/kernel.h).
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>

#include <vector>

namespace mamba::ops::product_detail {

struct Parts {
  int count;    // how many
  int low;      // which of them is the rest that the others leave
  bool blocks;  // (count rows, columns), each part for itself; else (rows, count columns)
};

// x (rows, columns) float32, of any strides and not empty. Where `piece` is given, which divides the columns, (columns
// / piece rows, count piece), of each piece for itself and one below the other; `parts.blocks` is false then.
mlx::core::array gpu_split(const mlx::core::array& x, const Parts& parts, const mlx::core::Stream& stream,
                           int piece = 0);

// The same of the transpose: (columns, count rows), or where `piece` is given (rows / piece, columns, count piece) of
// as many rows as fill pieces. `parts.blocks` is false.
mlx::core::array gpu_split_turned(const mlx::core::array& x, const Parts& parts, int piece,
                                  const mlx::core::Stream& stream);

// The sum of arrays (counts, ...) float32 over their first axes, in this order: one or two of them.
mlx::core::array gpu_sum(const std::vector<mlx::core::array>& arrays, const mlx::core::Stream& stream);

}  // namespace mamba::ops::product_detail
