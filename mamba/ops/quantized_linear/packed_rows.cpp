// Packed weights times a few rows, on any processor. A lane is a column of the result: codes of the columns beside each
// other are widened and scaled as dequantising would, w = scale code + bias rounded once, and multiplied with one
// element of each row of x.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/quantized_linear/packed_rows.cpp"
#include "mamba/ops/cpu/targets.h"
//
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include <algorithm>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/quantized_linear/kernel.h"
#include "mamba/ops/quantized_linear/unpack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::quantized_detail {
namespace HWY_NAMESPACE {

inline constexpr int kBlockColumns = static_cast<int>(Packed::kColumns);
inline constexpr int kVectors = std::min(kBlockColumns / static_cast<int>(kLanes), 4);  // beside each other
inline constexpr int kMaxRowsAtOnce = kVectors == 1 ? 8 : 4;

// out[i * kBlockColumns + j]: the product of row i of x and column j, for kVectors vectors of a block's columns from
// `first` on.
template <int kRows, int kBits, typename T>
HWY_NOINLINE void multiply_columns(const Packed& weight, const uint8_t* tile, int64_t first, const float* x,
                                   int64_t stride, float* out) {
  VF sums[kRows][kVectors];
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    MAMBA_CPU_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) {
      sums[i][v] = hn::Zero(DF());
    }
  }
  const int64_t words = weight.group_words();
  for (int64_t g = 0; g < weight.groups(); ++g, tile += weight.tile_bytes()) {
    const auto* const codes = reinterpret_cast<const uint32_t*>(tile) + first;
    const auto* const scales = reinterpret_cast<const T*>(tile + weight.code_bytes()) + first;
    VF scale[kVectors];
    VF bias[kVectors];
    MAMBA_CPU_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) {
      scale[v] = simd::load_float(scales + v * kLanes);
      bias[v] = simd::load_float(scales + kBlockColumns + v * kLanes);
    }
    for (int64_t w = 0; w < words; ++w) {
      VU word[kVectors];
      MAMBA_CPU_UNROLL(4)
      for (int v = 0; v < kVectors; ++v) {
        word[v] = hn::LoadU(DU(), codes + w * kBlockColumns + v * kLanes);
      }
      MAMBA_CPU_UNROLL(8)
      for (int c = 0; c < 32 / kBits; ++c) {
        VF value[kVectors];
        MAMBA_CPU_UNROLL(4)
        for (int v = 0; v < kVectors; ++v) {
          const VU code = hn::And(word[v], hn::Set(DU(), (1u << kBits) - 1));
          word[v] = hn::ShiftRight<kBits>(word[v]);
          value[v] = hn::MulAdd(small_to_float(code), scale[v], bias[v]);
        }
        MAMBA_CPU_UNROLL(8)
        for (int i = 0; i < kRows; ++i) {
          const VF element = hn::Set(DF(), x[i * stride + c]);
          MAMBA_CPU_UNROLL(4)
          for (int v = 0; v < kVectors; ++v) {
            sums[i][v] = hn::MulAdd(element, value[v], sums[i][v]);
          }
        }
      }
      x += 32 / kBits;
    }
  }
  MAMBA_CPU_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    MAMBA_CPU_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) {
      hn::StoreU(sums[i][v], DF(), out + i * kBlockColumns + first + v * kLanes);
    }
  }
}

template <int kBits, typename T>
void multiply_rows(int64_t rows, const Packed& weight, const uint8_t* tile, const float* x, int64_t stride,
                   float* out) {
  for (int64_t first = 0; first < kBlockColumns; first += kVectors * kLanes) {
    switch (rows) {
      case 1:
        multiply_columns<1, kBits, T>(weight, tile, first, x, stride, out);
        break;
      case 2:
        multiply_columns<2, kBits, T>(weight, tile, first, x, stride, out);
        break;
      case 3:
        multiply_columns<3, kBits, T>(weight, tile, first, x, stride, out);
        break;
      case 4:
        multiply_columns<4, kBits, T>(weight, tile, first, x, stride, out);
        break;
      default:
        multiply_columns<kMaxRowsAtOnce, kBits, T>(weight, tile, first, x, stride, out);
    }
  }
}

void pack_packed_row_impl(const Rows& x, const Packed& weight, int64_t begin, int64_t count, int64_t row,
                          float* packed) {
  simd::with_type(x.type, x.rows[static_cast<size_t>(row)], [&](auto* from) HWY_ATTR {
    simd::widen_row(from + begin, count, packed + row * linear_detail::packed_stride(weight.k) + begin, count);
  });
}

void packed_columns_impl(const Packed& weight, int64_t rows, const float* packed, const float* bias, int64_t begin,
                         int64_t end, const OutRows& y) {
  const int64_t stride = linear_detail::packed_stride(weight.k);
  HWY_ALIGN float out[kMaxRowsAtOnce * kBlockColumns];
  for (int64_t column = begin; column < end;) {
    const int64_t lane = column % kBlockColumns;
    const int64_t count = std::min(kBlockColumns - lane, end - column);
    const uint8_t* const block = weight.block(column / kBlockColumns);
    int64_t some = 0;
    for (int64_t row = 0; row < rows; row += some) {
      some = rows - row >= kMaxRowsAtOnce ? kMaxRowsAtOnce : std::min<int64_t>(4, rows - row);
      simd::with_type(weight.type, block, [&](auto* typed) HWY_ATTR {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
        const auto multiply = weight.bits == 4 ? multiply_rows<4, T> : multiply_rows<8, T>;
        multiply(some, weight, block, packed + row * stride, stride, out);
      });
      for (int64_t i = 0; i < some; ++i) {
        simd::with_type(y.type, y.rows[static_cast<size_t>(row + i)], [&](auto* to) HWY_ATTR {
          using Out = std::remove_const_t<std::remove_pointer_t<decltype(to)>>;
          simd::narrow_row(out + i * kBlockColumns + lane, bias == nullptr ? nullptr : bias + column, count,
                           const_cast<Out*>(to) + column);
        });
      }
    }
    column += count;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace mamba::ops::quantized_detail
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops::quantized_detail {

HWY_EXPORT(pack_packed_row_impl);
HWY_EXPORT(packed_columns_impl);

namespace {

constexpr int64_t kRangeBytes = 256 * 1024;  // of codes: a stream that lasts, and work for all threads

bool multiplies_bytes(Float x) {
  return x == Float::kBfloat16 && cpu::has_bf16_products();
}

// Groups [first_group, end_group) of a row.
void pack_row(const Rows& x, const Packed& weight, int64_t first_group, int64_t end_group, int64_t row, float* packed) {
  if (multiplies_bytes(x.type)) {
    return bf16::pack_row(x.rows[static_cast<size_t>(row)], weight, first_group, end_group, row, packed);
  }
  const int64_t begin = first_group * weight.group_size;
  const int64_t count = (end_group - first_group) * weight.group_size;
  HWY_DYNAMIC_DISPATCH(pack_packed_row_impl)(x, weight, begin, count, row, packed);
}

}  // namespace

void pack_few(const Rows& x, const Packed& weight, int64_t begin, int64_t end, float* packed) {
  for (int64_t row = begin; row < end; ++row) {
    pack_row(x, weight, 0, weight.groups(), row, packed);
  }
}

void pack_few_groups(const Rows& x, const Packed& weight, int64_t begin, int64_t end, float* packed) {
  for (int64_t row = 0; row < x.count(); ++row) {
    pack_row(x, weight, begin, end, row, packed);
  }
}

void few_columns(const Packed& weight, int64_t rows, Float x_type, const float* packed, const float* bias,
                 int64_t begin, int64_t end, const OutRows& y) {
  if (multiplies_bytes(x_type)) {
    return bf16::columns(weight, rows, packed, bias, begin, end, y);
  }
  HWY_DYNAMIC_DISPATCH(packed_columns_impl)(weight, rows, packed, bias, begin, end, y);
}

void few_rows(const Rows& x, const Packed& weight, const float* bias, const OutRows& y, float* workspace) {
  parallel_for(x.count(), std::max<int64_t>(1, 8192 / std::max<int64_t>(weight.k, 1)),
               [&](int64_t begin, int64_t end) { pack_few(x, weight, begin, end, workspace); });
  const int64_t threads = num_threads();
  const int64_t blocks = weight.blocks();
  const int64_t most = std::max<int64_t>(1, kRangeBytes / std::max<int64_t>(1, weight.block_bytes()));
  const int64_t rounds = (blocks + most * threads - 1) / (most * threads);
  const int64_t range = std::max<int64_t>(1, (blocks + rounds * threads - 1) / std::max<int64_t>(1, rounds * threads));
  parallel_for(weight.n, range * Packed::kColumns, [&](int64_t begin, int64_t end) {
    few_columns(weight, x.count(), x.type, workspace, bias, begin, end, y);
  });
}

}  // namespace mamba::ops::quantized_detail
#endif
