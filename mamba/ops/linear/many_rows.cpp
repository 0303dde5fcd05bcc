// The classic packed product. A tile of the right operand is copied, widened to float32, into panels of a few vectors
// of columns, k after k, so that the inner loop loads it in sequence from the second-level cache; so is a block of rows
// of the left operand, each element of which is broadcast against the panel: two streams in all, which the processor
// fetches ahead (rows that lie one behind the other are a stream each, too many). The sums of a block of
// rows x columns stay in registers for all of k (up to kMaxDepth; beyond, they wait in `partial`).
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
#include "mamba/ops/linear/fetch.h"
#include "mamba/ops/linear/many_rows.h"
#include "mamba/ops/linear/pack-inl.h"
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
constexpr int64_t kFetchStep = 32;      // k's between two steps of a BlockFetch
constexpr int64_t kMostBlockRows = 12;  // of any target

constexpr int64_t piece_rows(int64_t m, int64_t k) {
  return std::min(m, std::clamp(kPieceFloats / std::max<int64_t>(k, 1), kMinPieceRows, kMaxPieceRows));
}
}  // namespace mamba::ops::linear_detail
#endif

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::linear_detail {
namespace HWY_NAMESPACE {

struct Block {
  const float* left;   // [depth][kBlockRows]
  const float* panel;  // [depth][kPanel]
  int64_t depth;
  const float* bias;      // kPanel floats to add, or null
  float* to[kBlockRows];  // kPanel floats each
  bool add;               // to what `to` holds
  BlockFetch& fetch;
};

template <int kRows, int kVectors>
HWY_INLINE void multiply_block(const Block& b) {
  const DF d;
  VF sum[kRows][kVectors];
  MAMBA_CPU_UNROLL(16)
  for (int i = 0; i < kRows; ++i) {
    MAMBA_CPU_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) {
      sum[i][v] = b.add ? hn::LoadU(d, b.to[i] + v * kLanes) : hn::Zero(d);
    }
  }
  const float* HWY_RESTRICT left = b.left;
  const float* HWY_RESTRICT panel = b.panel;
  const auto multiply = [&](int64_t from, int64_t to) HWY_ATTR {
    for (int64_t k = from; k < to; ++k) {
      VF right[kVectors];
      MAMBA_CPU_UNROLL(4)
      for (int v = 0; v < kVectors; ++v) {
        right[v] = hn::Load(d, panel + k * kPanel + v * kLanes);
      }
      MAMBA_CPU_UNROLL(16)
      for (int i = 0; i < kRows; ++i) {
        const VF x = hn::Set(d, left[k * kBlockRows + i]);
        MAMBA_CPU_UNROLL(4)
        for (int v = 0; v < kVectors; ++v) {
          sum[i][v] = hn::MulAdd(x, right[v], sum[i][v]);
        }
      }
    }
  };
  const int64_t early = std::max<int64_t>(0, b.depth - kFetchStep);
  for (int64_t k = 0; k < early; k += kFetchStep) {
    b.fetch.next();
    multiply(k, std::min(early, k + kFetchStep));
  }
  b.fetch.last();
  multiply(early, b.depth);
  MAMBA_CPU_UNROLL(16)
  for (int i = 0; i < kRows; ++i) {
    MAMBA_CPU_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) {
      const VF result = b.bias == nullptr ? sum[i][v] : hn::Add(sum[i][v], hn::LoadU(d, b.bias + v * kLanes));
      hn::StoreU(result, d, b.to[i] + v * kLanes);
    }
  }
}

// The first kVectors of a panel.
template <int kRows, int kVectors>
void multiply_rows(const Block& b, int64_t rows) {
  if (rows == kRows) {
    multiply_block<kRows, kVectors>(b);
  } else if constexpr (kRows > 1) {
    multiply_rows<kRows - 1, kVectors>(b, rows);
  }
}

const float* added_row(const Product& product, int64_t row) {
  const auto i = static_cast<size_t>(row);
  return static_cast<const float*>(product.addend.rows.empty() ? product.out.rows[i] : product.addend.rows[i]);
}

// Columns [n, n + columns) of the right operand, k's [k, k + depth), panel after panel.
void pack_tile(const Product& product, int64_t n, int64_t columns, int64_t k, int64_t depth, float* tile) {
  for (int64_t done = 0; done < columns; done += kPanel) {
    pack_panel(product.right, n + done, std::min(kPanel, columns - done), k, depth, tile + done * depth);
  }
}

// Rows [begin, end) of a packed piece against those columns; between passes over k sums wait in `partial`.
void multiply_packed(const Product& product, const float* packed, int64_t piece_begin, int64_t begin, int64_t end,
                     int64_t n, int64_t columns, int64_t k, int64_t depth, const float* tile, float* partial,
                     PartFetch& part, SlicesBeside& slices) {
  HWY_ALIGN float finished[kBlockRows * kPanel];
  HWY_ALIGN float bias[kPanel];
  const bool last = k + depth >= product.k;
  for (int64_t row = begin; row < end; row += kBlockRows) {
    const int64_t rows = std::min<int64_t>(kBlockRows, end - row);
    for (int64_t done = 0; done < columns; done += kPanel) {
      const int64_t column = n + done;
      const int64_t width = std::min(kPanel, columns - done);
      // Whole panels of float32 results go where they belong at once.
      const bool direct = last && k == 0 && width == kPanel && product.out.type == Float::kFloat32;
      BlockFetch fetch(product.out, row, last ? rows : 0, column, width, part, slices, depth / kFetchStep);
      Block block{.left = packed + (row - piece_begin) * product.k + k * kBlockRows,
                  .panel = tile + done * depth,
                  .depth = depth,
                  .bias = nullptr,
                  .to = {},
                  .add = k > 0 || product.add,
                  .fetch = fetch};
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
      if (width <= kPanel / 2) {
        multiply_rows<kBlockRows, kBlockVectors / 2>(block, rows);
      } else {
        multiply_rows<kBlockRows, kBlockVectors>(block, rows);
      }
      for (int64_t i = 0; last && !direct && i < rows; ++i) {
        with_type(product.out.type, product.out.rows[static_cast<size_t>(row + i)], [&](auto* to) HWY_ATTR {
          using Out = std::remove_const_t<std::remove_pointer_t<decltype(to)>>;
          narrow_row(block.to[i], nullptr, width, const_cast<Out*>(to) + column);
        });
      }
      slices.run_ready();
    }
  }
}

// Rows [begin, end) of a packed piece against columns [n, n + columns); those at `next_n` probably come next.
void multiply_tile(const Product& product, const float* packed, int64_t piece_begin, int64_t begin, int64_t end,
                   int64_t n, int64_t columns, int64_t next_n) {
  HWY_ALIGN float tile[kTileFloats];
  HWY_ALIGN float partial[kMaxPieceRows * kPanel];
  const int64_t panels = (columns + kPanel - 1) / kPanel;
  const int64_t passes = std::max<int64_t>(1, (product.k + kMaxDepth - 1) / kMaxDepth);
  const int64_t blocks = (end - begin + kBlockRows - 1) / kBlockRows * panels;
  PartFetch part(product, next_n, columns, blocks * passes);
  SlicesBeside slices(blocks * std::max<int64_t>(0, product.k / kFetchStep - 1));
  for (int64_t k = 0; k == 0 || k < product.k; k += kMaxDepth) {
    const int64_t depth = std::min(kMaxDepth, product.k - k);
    pack_tile(product, n, columns, k, depth, tile);
    multiply_packed(product, packed, piece_begin, begin, end, n, columns, k, depth, tile, partial, part, slices);
  }
}

// `partial` holds one panel's sums: with several passes over k a tile is one panel wide.
int64_t tile_columns_for(int64_t k) {
  const int64_t depth = std::max<int64_t>(k, 1);
  return k > kMaxDepth ? kPanel : std::clamp(kTileFloats / depth, kPanel, kMaxTileColumns) / kPanel * kPanel;
}

void many_rows_impl(const Product& product, float* packed) {
  const int64_t k = product.k;
  const int64_t piece = piece_rows(product.m, k);
  const int64_t tile_columns = tile_columns_for(k);
  for (int64_t begin = 0; begin < product.m; begin += piece) {
    const int64_t end = std::min(product.m, begin + piece);
    const int64_t blocks = (end - begin + kBlockRows - 1) / kBlockRows;
    parallel_for(blocks, product.left.transposed ? 8 : 2, [&](int64_t from, int64_t to) HWY_ATTR {
      pack_left(product.left, begin, begin + from * kBlockRows, std::min(end, begin + to * kBlockRows), k, packed);
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
        // Threads take turns where tasks take equally long.
        const int64_t next_n = (task + num_threads()) / splits * columns;
        multiply_tile(product, packed, begin, row, row_end, n, width, next_n);
      }
    });
  }
}

// ManyRows, in float32, as functions that are chosen by instruction set.

int64_t block_rows_impl() {
  return kBlockRows;
}

int64_t panel_columns_impl() {
  return kPanel;
}

void pack_left_impl(const Rows& x, int64_t first, int64_t begin, int64_t end, int64_t k, float* packed) {
  pack_left(x, first, begin, end, k, packed);
}

void pack_panels_impl(const Product& product, int64_t begin, int64_t end, float* panels) {
  pack_tile(product, begin, end - begin, 0, product.k, panels + begin * product.k);
}

void multiply_rows_impl(const Product& product, const float* left, int64_t first, int64_t begin, int64_t end,
                        const float* panels) {
  PartFetch none(product, product.n, 0, 1);
  SlicesBeside no_slices;
  multiply_packed(product, left, first, begin, end, 0, product.n, 0, product.k, panels, nullptr, none, no_slices);
}

int64_t tile_columns_impl(int64_t k) {
  return tile_columns_for(k);
}

void multiply_columns_impl(const Product& product, const float* left, int64_t begin, int64_t end) {
  const int64_t step = tile_columns_for(product.k);
  for (int64_t n = begin; n < end; n += step) {
    multiply_tile(product, left, 0, 0, product.m, n, std::min(step, end - n), n + step);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace mamba::ops::linear_detail
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops::linear_detail {

HWY_EXPORT(many_rows_impl);
HWY_EXPORT(block_rows_impl);
HWY_EXPORT(panel_columns_impl);
HWY_EXPORT(tile_columns_impl);
HWY_EXPORT(pack_left_impl);
HWY_EXPORT(pack_panels_impl);
HWY_EXPORT(multiply_rows_impl);
HWY_EXPORT(multiply_columns_impl);

int64_t many_rows_workspace(int64_t m, int64_t k) {
  return (piece_rows(m, k) + kMostBlockRows) * k;
}

void many_rows(const Product& product, float* workspace) {
  HWY_DYNAMIC_DISPATCH(many_rows_impl)(product, workspace);
}

namespace {

class Float32ManyRows : public ManyRows {
 public:
  bool fits(int64_t k) const override { return k > 0 && k <= kMaxDepth; }
  int64_t block_rows() const override { return HWY_DYNAMIC_DISPATCH(block_rows_impl)(); }
  int64_t panel_columns() const override { return HWY_DYNAMIC_DISPATCH(panel_columns_impl)(); }
  int64_t tile_columns(int64_t k) const override { return HWY_DYNAMIC_DISPATCH(tile_columns_impl)(k); }

  int64_t left_floats(int64_t rows, int64_t k) const override {
    const int64_t block = block_rows();
    return (rows + block - 1) / block * block * k;
  }
  int64_t panel_floats(int64_t columns, int64_t k) const override {
    const int64_t panel = panel_columns();
    return (columns + panel - 1) / panel * panel * k;
  }

  void pack_left(const Rows& x, int64_t first, int64_t begin, int64_t end, int64_t k, float* packed) const override {
    HWY_DYNAMIC_DISPATCH(pack_left_impl)(x, first, begin, end, k, packed);
  }

  void pack_panels(const Product& product, int64_t begin, int64_t end, float* panels) const override {
    HWY_DYNAMIC_DISPATCH(pack_panels_impl)(product, begin, end, panels);
  }

  void multiply_rows(const Product& product, const float* left, int64_t first, int64_t begin, int64_t end,
                     const float* panels) const override {
    HWY_DYNAMIC_DISPATCH(multiply_rows_impl)(product, left, first, begin, end, panels);
  }

  void multiply_columns(const Product& product, const float* left, int64_t begin, int64_t end) const override {
    HWY_DYNAMIC_DISPATCH(multiply_columns_impl)(product, left, begin, end);
  }
};

}  // namespace

const ManyRows& many_rows_in_pieces() {
  static const Float32ManyRows pieces;
  return pieces;
}

}  // namespace mamba::ops::linear_detail
#endif
