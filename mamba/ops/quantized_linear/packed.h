// Quantised weights in the order in which a CPU's kernels read them. As checkpoints have them (quantized_linear.h), a
// row of W is a thousand bytes or two, several rows are read side by side, and no processor sees that coming. Packed,
// what one thread reads is one stream.
//
// 16 rows of W make a block, and the last block is filled up with zeros. A block has a tile for each group of k:
//
//   codes   words of 32 bits: word 0 of each of the 16 rows, then word 1 of each, ...
//   scales  16, in their dtype
//   biases  16
//
// Nothing is lost: unpack() gives the same bits back.
#pragma once

#include <mlx/array.h>
#include <mlx/stream.h>
#include <mlx/utils.h>

#include <cstddef>
#include <optional>

#include "mamba/ops/quantized_linear/quantized_linear.h"

namespace mamba::ops {

struct PackedWeight {
  mlx::core::array tiles;  // (bytes,) uint8, best aligned to 64 bytes
  mlx::core::Shape shape;  // (N, K)
  mlx::core::Dtype dtype;  // of scales and biases
  int group_size = 64;
  int bits = 8;

  int rows() const { return shape[0]; }
  int columns() const { return shape[1]; }
};

// Whether products with x of this dtype are faster with packed weights on this device.
bool prefers_packed(mlx::core::Dtype x, const mlx::core::Stream& stream);

// Bytes of the tiles.
size_t packed_bytes(const QuantizedWeight& weight);

// Writes packed_bytes() from `to` on, which is aligned as an uint32_t is. Evaluates the weight's arrays.
void pack(const QuantizedWeight& weight, std::byte* to);

// Evaluates the tiles.
QuantizedWeight unpack(const PackedWeight& weight);

// As those of quantized_linear.h.
void check_quantized(const char* op, const PackedWeight& weight);
mlx::core::array dequantize(const PackedWeight& weight, std::optional<mlx::core::Dtype> dtype = {},
                            mlx::core::StreamOrDevice s = {});
mlx::core::array quantized_rows(const PackedWeight& weight, const mlx::core::array& indices,
                                std::optional<mlx::core::Dtype> dtype = {}, mlx::core::StreamOrDevice s = {});
mlx::core::array quantized_linear(const mlx::core::array& x, const PackedWeight& weight,
                                  const std::optional<mlx::core::array>& bias = {}, const LinearOptions& options = {},
                                  mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
