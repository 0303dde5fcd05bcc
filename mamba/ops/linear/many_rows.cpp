// The classic packed product. A tile of the right operand is copied, widened to float32, into panels of a few vectors
// of columns, k after k, so that the inner loop loads it in sequence from the second-level cache; a block of rows of
// the left operand stays in the first-level cache, and each of its elements is broadcast against the panel. The sums of
// a block of rows x columns stay in registers for all of k (up to kMaxDepth; beyond, they wait in `partial`).
//
// Tasks are tiles of columns, each over all rows, so that a tile is packed once; where that gives too few tasks for the
// threads, the rows are split too. No element depends on how the product was split.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/linear/many_rows.cpp"
#include "mamba/ops/cpu/targets.h"
//
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include "mamba/base/threads.h"
#include "mamba/ops/linear/many_rows.h"
#include "mamba/ops/linear/simd-inl.h"

#ifndef MAMBA_OPS_LINEAR_MANY_ROWS_CONSTANTS_
#define MAMBA_OPS_LINEAR_MANY_ROWS_CONSTANTS_
namespace mamba::ops::linear_detail {
constexpr int64_t kMaxDepth = 2048;
constexpr int64_t kTileFloats = 64 * 1024;  // a packed tile: 256 KiB, half of a small second-level cache
constexpr int64_t kMaxTileColumns = 192;
constexpr int64_t kPieceFloats = 2 << 20;  // packed rows of the left operand at a time: 8 MiB
constexpr int64_t kMaxPieceRows = 1024;
constexpr int64_t kMinPieceRows = 128;

constexpr int64_t piece_rows(int64_t m, int64_t k) {
  return std::min(m, std::clamp(kPieceFloats / packed_stride(k), kMinPieceRows, kMaxPieceRows));
}
}  // namespace mamba::ops::linear_detail
#endif

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::linear_detail {
namespace HWY_NAMESPACE {

// Rows x vectors of sums that fit the registers with a panel's vectors and one broadcast beside them.
#if HWY_TARGET <= HWY_AVX3
constexpr int kBlockRows = 12, kBlockVectors = 2;
#elif HWY_TARGET == HWY_NEON
constexpr int kBlockRows = 6, kBlockVectors = 4;
#elif HWY_TARGET == HWY_SCALAR
constexpr int kBlockRows = 2, kBlockVectors = 4;
#else
constexpr int kBlockRows = 6, kBlockVectors = 2;
#endif
constexpr int64_t kPanel = kBlockVectors * kLanes;

struct Block {
  const float* left;  // first row
  int64_t left_stride;
  const float* panel;  // [depth][kPanel]
  int64_t depth;
  const float* bias;      // kPanel floats to add, or null
  float* to[kBlockRows];  // kPanel floats each
  bool add;               // to what `to` holds
};

template <int kRows>
HWY_INLINE void multiply_block(const Block& b) {
  const DF d;
  VF sum[kRows][kBlockVectors];
  MAMBA_CPU_UNROLL(16)
  for (int i = 0; i < kRows; ++i) {
    MAMBA_CPU_UNROLL(4)
    for (int v = 0; v < kBlockVectors; ++v) {
      sum[i][v] = b.add ? hn::LoadU(d, b.to[i] + v * kLanes) : hn::Zero(d);
    }
  }
  const float* HWY_RESTRICT left = b.left;
  const float* HWY_RESTRICT panel = b.panel;
  const int64_t stride = b.left_stride;
  for (int64_t k = 0; k < b.depth; ++k) {
    VF right[kBlockVectors];
    MAMBA_CPU_UNROLL(4)
    for (int v = 0; v < kBlockVectors; ++v) {
      right[v] = hn::Load(d, panel + k * kPanel + v * kLanes);
    }
    MAMBA_CPU_UNROLL(16)
    for (int i = 0; i < kRows; ++i) {
      const VF x = hn::Set(d, left[i * stride + k]);
      MAMBA_CPU_UNROLL(4)
      for (int v = 0; v < kBlockVectors; ++v) {
        sum[i][v] = hn::MulAdd(x, right[v], sum[i][v]);
      }
    }
  }
  MAMBA_CPU_UNROLL(16)
  for (int i = 0; i < kRows; ++i) {
    MAMBA_CPU_UNROLL(4)
    for (int v = 0; v < kBlockVectors; ++v) {
      const VF result = b.bias == nullptr ? sum[i][v] : hn::Add(sum[i][v], hn::LoadU(d, b.bias + v * kLanes));
      hn::StoreU(result, d, b.to[i] + v * kLanes);
    }
  }
}

template <int kRows>
void multiply_rows(const Block& b, int64_t rows) {
  if (rows == kRows) {
    multiply_block<kRows>(b);
  } else if constexpr (kRows > 1) {
    multiply_rows<kRows - 1>(b, rows);
  }
}

// Four rows of `from`, four elements each, to four columns of a panel. Vectors of four on every target: the stores are
// what limits it.
template <typename T>
HWY_INLINE void transpose_4x4(const T* from, int64_t stride, float* to) {
#if HWY_TARGET == HWY_SCALAR
  for (int64_t k = 0; k < 4; ++k) {
    for (int64_t j = 0; j < 4; ++j) {
      to[k * kPanel + j] = hn::GetLane(load_float(from + j * stride + k));
    }
  }
#else
  const hn::FixedTag<float, 4> d;
  const hn::Rebind<T, decltype(d)> dt;
  const auto load = [&](int64_t row) HWY_ATTR {
    if constexpr (std::is_same_v<T, float>) {
      return hn::LoadU(d, from + row * stride);
    } else {
      return hn::PromoteTo(d, hn::LoadU(dt, from + row * stride));
    }
  };
  const auto a = load(0), b = load(1), c = load(2), e = load(3);
  const auto ac0 = hn::InterleaveLower(d, a, c), ac1 = hn::InterleaveUpper(d, a, c);
  const auto be0 = hn::InterleaveLower(d, b, e), be1 = hn::InterleaveUpper(d, b, e);
  hn::StoreU(hn::InterleaveLower(d, ac0, be0), d, to);
  hn::StoreU(hn::InterleaveUpper(d, ac0, be0), d, to + kPanel);
  hn::StoreU(hn::InterleaveLower(d, ac1, be1), d, to + 2 * kPanel);
  hn::StoreU(hn::InterleaveUpper(d, ac1, be1), d, to + 3 * kPanel);
#endif
}

// One element widened. Only for edges.
template <typename T>
HWY_INLINE float widened(const T* p) {
  return hn::GetLane(load_float_part(p, 1));
}

// panel[k][j] = row j of `from`, element k, for `columns` rows; 0 for the other columns of the panel.
template <typename T>
void pack_panel_transposed(const T* from, int64_t stride, int64_t columns, int64_t depth, float* panel) {
  for (int64_t j = 0; j < kPanel; j += 4) {
    if (j + 4 <= columns) {
      int64_t k = 0;
      for (; k + 4 <= depth; k += 4) {
        transpose_4x4(from + j * stride + k, stride, panel + k * kPanel + j);
      }
      for (; k < depth; ++k) {
        for (int64_t c = j; c < j + 4; ++c) {
          panel[k * kPanel + c] = widened(from + c * stride + k);
        }
      }
      continue;
    }
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t c = j; c < j + 4; ++c) {
        panel[k * kPanel + c] = c < columns ? widened(from + c * stride + k) : 0.0f;
      }
    }
  }
}

// Columns [n, n + columns) and depth [k, k + depth) of the right operand as a panel.
void pack_panel(const Right& right, int64_t n, int64_t columns, int64_t k, int64_t depth, float* panel) {
  with_type(right.matrix.type, right.matrix.data, [&](auto* data) HWY_ATTR {
    const int64_t stride = right.matrix.stride;
    if (!right.by_k) {
      pack_panel_transposed(data + n * stride + k, stride, columns, depth, panel);
      return;
    }
    for (int64_t i = 0; i < depth; ++i) {
      widen_row(data + (k + i) * stride + n, columns, panel + i * kPanel, kPanel);
    }
  });
}

// Rows [begin, end) of the left operand, widened, to packed[row - piece_begin].
void pack_left(const Left& left, int64_t piece_begin, int64_t begin, int64_t end, int64_t k, float* packed) {
  const int64_t stride = packed_stride(k);
  if (!left.transposed) {
    for (int64_t row = begin; row < end; ++row) {
      with_type(left.rows.type, left.rows.rows[static_cast<size_t>(row)], [&](auto* from) HWY_ATTR {
        widen_row(from, k, packed + (row - piece_begin) * stride, (k + kLanes - 1) / kLanes * kLanes);
      });
    }
    return;
  }
  constexpr int64_t kStrip = 64;
  HWY_ALIGN float strip[kStrip];
  for (int64_t at = begin; at < end; at += kStrip) {
    const int64_t count = std::min(kStrip, end - at);
    for (int64_t i = 0; i < k; ++i) {
      with_type(left.rows.type, left.rows.rows[static_cast<size_t>(i)], [&](auto* from) HWY_ATTR {
        widen_row(from + at, count, strip, (count + kLanes - 1) / kLanes * kLanes);
      });
      float* to = packed + (at - piece_begin) * stride + i;
      for (int64_t c = 0; c < count; ++c) {
        to[c * stride] = strip[c];
      }
    }
  }
}

const float* added_row(const Product& product, int64_t row) {
  const auto i = static_cast<size_t>(row);
  return static_cast<const float*>(product.addend.rows.empty() ? product.out.rows[i] : product.addend.rows[i]);
}

// Rows [begin, end) of a packed piece against columns [n, n + columns).
void multiply_tile(const Product& product, const float* packed, int64_t piece_begin, int64_t begin, int64_t end,
                   int64_t n, int64_t columns) {
  HWY_ALIGN float tile[kTileFloats];
  HWY_ALIGN float partial[kMaxPieceRows * kPanel];
  HWY_ALIGN float finished[kBlockRows * kPanel];
  HWY_ALIGN float bias[kPanel];
  const int64_t stride = packed_stride(product.k);
  const int64_t panels = (columns + kPanel - 1) / kPanel;
  for (int64_t k = 0; k == 0 || k < product.k; k += kMaxDepth) {
    const int64_t depth = std::min(kMaxDepth, product.k - k);
    const bool last = k + depth >= product.k;
    for (int64_t p = 0; p < panels; ++p) {
      pack_panel(product.right, n + p * kPanel, std::min(kPanel, columns - p * kPanel), k, depth,
                 tile + p * depth * kPanel);
    }
    for (int64_t row = begin; row < end; row += kBlockRows) {
      const int64_t rows = std::min<int64_t>(kBlockRows, end - row);
      for (int64_t p = 0; p < panels; ++p) {
        const int64_t column = n + p * kPanel;
        const int64_t width = std::min(kPanel, columns - p * kPanel);
        // Whole panels of float32 results go where they belong at once.
        const bool direct = last && k == 0 && width == kPanel && product.out.type == Float::kFloat32;
        Block block{.left = packed + (row - piece_begin) * stride + k,
                    .left_stride = stride,
                    .panel = tile + p * depth * kPanel,
                    .depth = depth,
                    .bias = nullptr,
                    .to = {},
                    .add = k > 0 || product.add};
        for (int64_t i = 0; i < rows; ++i) {
          block.to[i] = direct           ? static_cast<float*>(product.out.rows[static_cast<size_t>(row + i)]) + column
                        : last && k == 0 ? finished + i * kPanel
                                         : partial + (row - begin + i) * kPanel;
        }
        for (int64_t i = 0; product.add && k == 0 && i < rows; ++i) {
          const float* from = added_row(product, row + i) + column;
          if (from != block.to[i]) {
            widen_row(from, width, block.to[i], kPanel);
          }
        }
        if (product.bias != nullptr && last) {
          std::fill(bias, bias + kPanel, 0.0f);
          std::copy_n(product.bias + column, width, bias);
          block.bias = bias;
        }
        multiply_rows<kBlockRows>(block, rows);
        for (int64_t i = 0; last && !direct && i < rows; ++i) {
          with_type(product.out.type, product.out.rows[static_cast<size_t>(row + i)], [&](auto* to) HWY_ATTR {
            using Out = std::remove_const_t<std::remove_pointer_t<decltype(to)>>;
            narrow_row(block.to[i], nullptr, width, const_cast<Out*>(to) + column);
          });
        }
      }
    }
  }
}

void many_rows_impl(const Product& product, float* packed) {
  const int64_t k = product.k;
  const int64_t piece = piece_rows(product.m, k);
  const int64_t depth = std::min(kMaxDepth, std::max<int64_t>(k, 1));
  // `partial` holds one panel's sums: with several passes over k a tile is one panel wide.
  int64_t tile_columns = kPanel;
  if (k <= kMaxDepth) {
    tile_columns = std::clamp(kTileFloats / depth, kPanel, kMaxTileColumns) / kPanel * kPanel;
  }
  for (int64_t begin = 0; begin < product.m; begin += piece) {
    const int64_t end = std::min(product.m, begin + piece);
    parallel_for(end - begin, product.left.transposed ? 64 : 16, [&](int64_t from, int64_t to) HWY_ATTR {
      pack_left(product.left, begin, begin + from, begin + to, k, packed);
    });
    // At least four tasks a thread, as far as narrower tiles and a split of the rows give them.
    const int64_t wanted = 4 * num_threads();
    const int64_t narrow = (product.n / wanted + kPanel - 1) / kPanel * kPanel;
    const int64_t columns = std::clamp(narrow, std::min<int64_t>(tile_columns, 2 * kPanel), tile_columns);
    const int64_t tiles = (product.n + columns - 1) / columns;
    const int64_t splits = std::clamp<int64_t>(wanted / std::max<int64_t>(tiles, 1), 1, (end - begin + 127) / 128);
    const int64_t split_rows = ((end - begin + splits - 1) / splits + kBlockRows - 1) / kBlockRows * kBlockRows;
    parallel_for(tiles * splits, 1, [&](int64_t from, int64_t to) HWY_ATTR {
      for (int64_t task = from; task < to; ++task) {
        const int64_t n = task / splits * columns;
        const int64_t row = begin + task % splits * split_rows;
        const int64_t row_end = std::min(end, row + split_rows);
        if (row >= row_end) {
          continue;
        }
        const int64_t width = std::min(columns, product.n - n);
        multiply_tile(product, packed, begin, row, row_end, n, width);
      }
    });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace mamba::ops::linear_detail
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops::linear_detail {

HWY_EXPORT(many_rows_impl);

int64_t many_rows_workspace(int64_t m, int64_t k) {
  return piece_rows(m, k) * packed_stride(k);
}

void many_rows(const Product& product, float* workspace) {
  HWY_DYNAMIC_DISPATCH(many_rows_impl)(product, workspace);
}

}  // namespace mamba::ops::linear_detail
#endif
