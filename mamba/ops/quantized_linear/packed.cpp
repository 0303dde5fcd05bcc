#include "mamba/ops/quantized_linear/packed.h"

#include <mlx/allocator.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cstring>

#include "mamba/base/error.h"
#include "mamba/base/threads.h"
#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/linear/checks.h"
#include "mamba/ops/quantized_linear/kernel.h"
#ifndef __APPLE__
#include "mamba/ops/quantized_linear/forward.h"
#endif

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

using quantized_detail::Packed;

Packed packed_of(mx::Dtype dtype, int group_size, int bits, int rows, int columns) {
  Packed packed;
  packed.type = linear_detail::float_type(dtype);
  packed.group_size = group_size;
  packed.bits = bits;
  packed.n = rows;
  packed.k = columns;
  return packed;
}

Packed packed_of(const QuantizedWeight& weight) {
  return packed_of(weight.scales.dtype(), weight.group_size, weight.bits, weight.rows(), weight.columns());
}

Packed packed_of(const PackedWeight& weight) {
  return packed_of(weight.dtype, weight.group_size, weight.bits, weight.rows(), weight.columns());
}

// The three parts of rows that lie one after another, and where they have their places among tiles.
template <typename Byte>
struct Parts {
  Byte* codes;
  Byte* scales;
  Byte* biases;
};

// Calls move(part's bytes, tile's bytes, how many) for all that a block's rows have.
template <typename Byte, typename TileByte, typename Move>
void walk_block(const Packed& format, const Parts<Byte>& parts, int64_t block, TileByte* tile, const Move& move) {
  constexpr int64_t kWord = 4;
  const int64_t size = linear_detail::size_of(format.type);
  const int64_t first = block * Packed::kColumns;
  const int64_t rows = std::min(Packed::kColumns, format.n - first);
  for (int64_t g = 0; g < format.groups(); ++g, tile += format.tile_bytes()) {
    for (int64_t j = 0; j < rows; ++j) {
      Byte* const codes = parts.codes + (first + j) * format.row_bytes() + g * format.group_words() * kWord;
      for (int64_t w = 0; w < format.group_words(); ++w) {
        move(codes + w * kWord, tile + (w * Packed::kColumns + j) * kWord, kWord);
      }
      const int64_t number = ((first + j) * format.groups() + g) * size;
      TileByte* const scales = tile + format.code_bytes();
      move(parts.scales + number, scales + j * size, size);
      move(parts.biases + number, scales + format.scale_bytes() + j * size, size);
    }
  }
}

// Calls body(block) for every block.
template <typename Body>
void for_each_block(const Packed& format, const Body& body) {
  constexpr int64_t kBlocksAtOnce = 4;  // some microseconds
  parallel_for(format.blocks(), kBlocksAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      body(block);
    }
  });
}

}  // namespace

bool prefers_packed(mx::Dtype x, const mx::Stream& stream) {
  return on_cpu(stream) && x == mx::bfloat16 && cpu::has_bf16_products();
}

size_t packed_bytes(const QuantizedWeight& weight) {
  const Packed packed = packed_of(weight);
  return static_cast<size_t>(packed.blocks() * packed.block_bytes());
}

void pack(const QuantizedWeight& weight, std::byte* to) {
  check_quantized("pack", weight);
  const mx::array codes = mx::contiguous(weight.codes);
  const mx::array scales = mx::contiguous(weight.scales);
  const mx::array biases = mx::contiguous(weight.biases);
  mx::eval(codes, scales, biases);
  const Packed packed = packed_of(weight);
  const Parts<const uint8_t> parts{codes.data<uint8_t>(), scales.data<uint8_t>(), biases.data<uint8_t>()};
  for_each_block(packed, [&](int64_t block) {
    auto* const tiles = reinterpret_cast<uint8_t*>(to) + block * packed.block_bytes();
    if ((block + 1) * Packed::kColumns > packed.n) {
      std::memset(tiles, 0, static_cast<size_t>(packed.block_bytes()));
    }
    walk_block(packed, parts, block, tiles, [](const uint8_t* part, uint8_t* tile, int64_t bytes) {
      std::memcpy(tile, part, static_cast<size_t>(bytes));
    });
  });
}

QuantizedWeight unpack(const PackedWeight& weight) {
  check_quantized("unpack", weight);
  mx::array tiles = weight.tiles;
  tiles.eval();
  Packed packed = packed_of(weight);
  packed.tiles = tiles.data<uint8_t>();
  const auto made = [](mx::Shape shape, mx::Dtype dtype) {
    const size_t bytes = static_cast<size_t>(shape[0]) * static_cast<size_t>(shape[1]) * dtype.size();
    return mx::array(mx::allocator::malloc(bytes), std::move(shape), dtype);
  };
  const mx::Shape of_groups = {weight.rows(), weight.columns() / weight.group_size};
  QuantizedWeight out{.codes = made({weight.rows(), weight.columns() * weight.bits / 32}, mx::uint32),
                      .scales = made(of_groups, weight.dtype),
                      .biases = made(of_groups, weight.dtype),
                      .group_size = weight.group_size,
                      .bits = weight.bits};
  const Parts<uint8_t> parts{out.codes.data<uint8_t>(), out.scales.data<uint8_t>(), out.biases.data<uint8_t>()};
  for_each_block(packed, [&](int64_t block) {
    walk_block(packed, parts, block, packed.block(block), [](uint8_t* part, const uint8_t* tile, int64_t bytes) {
      std::memcpy(part, tile, static_cast<size_t>(bytes));
    });
  });
  return out;
}

void check_quantized(const char* op, const PackedWeight& weight) {
  const int group = weight.group_size;
  check(weight.bits == 4 || weight.bits == 8, "[{}] bits must be 4 or 8 but are {}", op, weight.bits);
  check(group == 32 || group == 64 || group == 128, "[{}] group_size must be 32, 64 or 128 but is {}", op, group);
  check(weight.shape.size() == 2 && weight.columns() % group == 0,
        "[{}] the shape of packed weights must be (N, K), K a multiple of {}, but is {}", op, group,
        shown(weight.shape));
  const Packed packed = packed_of(weight);
  check_shape(op, "tiles", weight.tiles, {static_cast<int>(packed.blocks() * packed.block_bytes())});
  check(weight.tiles.dtype() == mx::uint8, "[{}] tiles must be uint8 but are {}", op, shown(weight.tiles.dtype()));
}

mx::array dequantize(const PackedWeight& weight, std::optional<mx::Dtype> dtype, mx::StreamOrDevice s) {
#ifndef __APPLE__
  check_quantized("dequantize", weight);
  if (const mx::Stream stream = mx::to_stream(s); on_cpu(stream)) {
    return quantized_detail::dequantized_rows(weight, {}, dtype.value_or(weight.dtype), stream);
  }
#endif
  return dequantize(unpack(weight), dtype, s);
}

mx::array quantized_rows(const PackedWeight& weight, const mx::array& indices, std::optional<mx::Dtype> dtype,
                         mx::StreamOrDevice s) {
#ifndef __APPLE__
  check_quantized("quantized_rows", weight);
  check(indices.dtype() == mx::int32, "[quantized_rows] indices must be int32 but are {}", shown(indices.dtype()));
  if (const mx::Stream stream = mx::to_stream(s); on_cpu(stream)) {
    return quantized_detail::dequantized_rows(weight, indices, dtype.value_or(weight.dtype), stream);
  }
#endif
  return quantized_rows(unpack(weight), indices, dtype, s);
}

mx::array quantized_linear(const mx::array& x, const PackedWeight& weight, const std::optional<mx::array>& bias,
                           const LinearOptions& options, mx::StreamOrDevice s) {
#ifndef __APPLE__
  check_quantized("quantized_linear", weight);
  check_linear("quantized_linear", x, weight.rows(), weight.columns(), bias, options);
  if (const mx::Stream stream = mx::to_stream(s); on_cpu(stream)) {
    return quantized_detail::forward(x, weight, bias, options, stream);
  }
#endif
  return quantized_linear(x, unpack(weight), bias, options, s);
}

}  // namespace mamba::ops
