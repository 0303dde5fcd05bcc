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
constexpr int64_t kMostBlockRows = 12;  // of any target

constexpr int64_t piece_rows(int64_t m, int64_t k) {
  return std::min(m, std::clamp(kPieceFloats / std::max<int64_t>(k, 1), kMinPieceRows, kMaxPieceRows));
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
  const float* left;   // [depth][kBlockRows]
  const float* panel;  // [depth][kPanel]
  int64_t depth;
  const float* bias;      // kPanel floats to add, or null
  float* to[kBlockRows];  // kPanel floats each
  bool add;               // to what `to` holds
  ResultLines results;
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
  const auto multiply = [&](int64_t from, int64_t to) HWY_ATTR {
    for (int64_t k = from; k < to; ++k) {
      VF right[kBlockVectors];
      MAMBA_CPU_UNROLL(4)
      for (int v = 0; v < kBlockVectors; ++v) {
        right[v] = hn::Load(d, panel + k * kPanel + v * kLanes);
      }
      MAMBA_CPU_UNROLL(16)
      for (int i = 0; i < kRows; ++i) {
        const VF x = hn::Set(d, left[k * kBlockRows + i]);
        MAMBA_CPU_UNROLL(4)
        for (int v = 0; v < kBlockVectors; ++v) {
          sum[i][v] = hn::MulAdd(x, right[v], sum[i][v]);
        }
      }
    }
  };
  // Lines that were asked for before have come as far as the second-level cache, past what was read since.
  constexpr int64_t kLate = 32;
  const int64_t early = std::max<int64_t>(0, b.depth - kLate);
  multiply(0, early);
  b.results.fetch();
  multiply(early, b.depth);
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

// Elements [k, k + 4) of four rows, widened, to to[i * kStride + j], i of an element and j of a row. Vectors of four on
// every target: the stores are what limits it.
template <int64_t kStride, typename T>
HWY_INLINE void transpose_4x4(const T* const* rows, int64_t k, float* to) {
#if HWY_TARGET == HWY_SCALAR
  for (int64_t i = 0; i < 4; ++i) {
    for (int64_t j = 0; j < 4; ++j) {
      to[i * kStride + j] = hn::GetLane(load_float(rows[j] + k + i));
    }
  }
#else
  const hn::FixedTag<float, 4> d;
  const hn::Rebind<T, decltype(d)> dt;
  const auto load = [&](int64_t row) HWY_ATTR {
    if constexpr (std::is_same_v<T, float>) {
      return hn::LoadU(d, rows[row] + k);
    } else {
      return hn::PromoteTo(d, hn::LoadU(dt, rows[row] + k));
    }
  };
  const auto a = load(0), b = load(1), c = load(2), e = load(3);
  const auto ac0 = hn::InterleaveLower(d, a, c), ac1 = hn::InterleaveUpper(d, a, c);
  const auto be0 = hn::InterleaveLower(d, b, e), be1 = hn::InterleaveUpper(d, b, e);
  hn::StoreU(hn::InterleaveLower(d, ac0, be0), d, to);
  hn::StoreU(hn::InterleaveUpper(d, ac0, be0), d, to + kStride);
  hn::StoreU(hn::InterleaveLower(d, ac1, be1), d, to + 2 * kStride);
  hn::StoreU(hn::InterleaveUpper(d, ac1, be1), d, to + 3 * kStride);
#endif
}

// One element widened. Only for edges.
template <typename T>
HWY_INLINE float widened(const T* p) {
  return hn::GetLane(load_float_part(p, 1));
}

// to[i * kStride + j] = rows[j][i] for j < count, i < k. Nothing else is written.
template <int64_t kStride, typename T>
void turn_rows(const T* const* rows, int64_t count, int64_t k, float* to) {
  if (count < 4) {
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t i = 0; i < k; ++i) {
        to[i * kStride + j] = widened(rows[j] + i);
      }
    }
    return;
  }
  // Few rows: a line of each after another, so that what is written is whole before it leaves the first-level cache.
  // The lines of many would drive each other out, since rows are often a large power of 2 apart.
  const int64_t step = kStride <= 16 ? 64 / static_cast<int64_t>(sizeof(T)) : k;
  for (int64_t first = 0; first < k; first += step) {
    const int64_t end = std::min(k, first + step);
    for (int64_t done = 0; done < count; done += 4) {
      const int64_t j = std::min(done, count - 4);
      int64_t i = first;
      for (; i + 4 <= end; i += 4) {
        transpose_4x4<kStride>(rows + j, i, to + i * kStride + j);
      }
      for (; i < end; ++i) {
        for (int64_t c = j; c < j + 4; ++c) {
          to[i * kStride + c] = widened(rows[c] + i);
        }
      }
    }
  }
}

// panel[k][j] = row j of `from`, element k, for `columns` rows; 0 for the other columns of the panel.
template <typename T>
void pack_panel_transposed(const T* from, int64_t stride, int64_t columns, int64_t depth, float* panel) {
  const T* rows[kPanel];
  for (int64_t j = 0; j < columns; ++j) {
    rows[j] = from + j * stride;
  }
  turn_rows<kPanel>(rows, columns, depth, panel);
  for (int64_t k = 0; k < depth && columns < kPanel; ++k) {
    std::fill(panel + k * kPanel + columns, panel + (k + 1) * kPanel, 0.0f);
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

// Rows [begin, end) of the left operand, widened, in blocks of kBlockRows with one k's elements side by side: row r's
// element i to packed[(r / kBlockRows * k + i) * kBlockRows + r % kBlockRows], r counted from piece_begin. `begin`
// starts a block.
void pack_left(const Left& left, int64_t piece_begin, int64_t begin, int64_t end, int64_t k, float* packed) {
  const auto block_of = [&](int64_t row) { return packed + (row - piece_begin) * k; };
  if (!left.transposed) {
    for (int64_t row = begin; row < end; row += kBlockRows) {
      const int64_t rows = std::min<int64_t>(kBlockRows, end - row);
      const void* const* from = left.rows.rows.data() + row;
      with_type(left.rows.type, from[0], [&](auto* first) HWY_ATTR {
        const std::remove_pointer_t<decltype(first)>* typed[kBlockRows];
        for (int64_t r = 0; r < rows; ++r) {
          typed[r] = static_cast<decltype(first)>(from[r]);
        }
        turn_rows<kBlockRows>(typed, rows, k, block_of(row));
      });
    }
    return;
  }
  constexpr int64_t kStrip = 4 * kBlockRows;
  constexpr int64_t kRowsAhead = 16;
  HWY_ALIGN float strip[kStrip + kLanes] = {};
  for (int64_t at = begin; at < end; at += kStrip) {
    const int64_t count = std::min(kStrip, end - at);
    for (int64_t i = 0; i < k; ++i) {
      with_type(left.rows.type, left.rows.rows[static_cast<size_t>(i)], [&](auto* from) HWY_ATTR {
        if (i + kRowsAhead < k) {
          const auto* const ahead =
              static_cast<decltype(from)>(left.rows.rows[static_cast<size_t>(i + kRowsAhead)]) + at;
          for (int64_t j = 0; j < count; j += 64 / static_cast<int64_t>(sizeof(*from))) {
            __builtin_prefetch(ahead + j);
          }
        }
        widen_row(from + at, count, strip, (count + kLanes - 1) / kLanes * kLanes);
      });
      for (int64_t r = 0; r < count; r += kBlockRows) {
        std::copy_n(strip + r, kBlockRows, block_of(at + r) + i * kBlockRows);
      }
    }
  }
}

const float* added_row(const Product& product, int64_t row) {
  const auto i = static_cast<size_t>(row);
  return static_cast<const float*>(product.addend.rows.empty() ? product.out.rows[i] : product.addend.rows[i]);
}

// Rows [begin, end) of a packed piece against columns [n, n + columns); those at `next_n` probably come next.
void multiply_tile(const Product& product, const float* packed, int64_t piece_begin, int64_t begin, int64_t end,
                   int64_t n, int64_t columns, int64_t next_n) {
  HWY_ALIGN float tile[kTileFloats];
  HWY_ALIGN float partial[kMaxPieceRows * kPanel];
  HWY_ALIGN float finished[kBlockRows * kPanel];
  HWY_ALIGN float bias[kPanel];
  const int64_t panels = (columns + kPanel - 1) / kPanel;
  const int64_t passes = std::max<int64_t>(1, (product.k + kMaxDepth - 1) / kMaxDepth);
  PartFetch part(product, next_n, columns, (end - begin + kBlockRows - 1) / kBlockRows * panels * passes);
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
        Block block{.left = packed + (row - piece_begin) * product.k + k * kBlockRows,
                    .panel = tile + p * depth * kPanel,
                    .depth = depth,
                    .bias = nullptr,
                    .to = {},
                    .add = k > 0 || product.add,
                    .results = ResultLines(product.out, row, last ? rows : 0, column, width)};
        part.next(part.lines_per_block());
        block.results.fetch();
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

}  // namespace HWY_NAMESPACE
}  // namespace mamba::ops::linear_detail
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops::linear_detail {

HWY_EXPORT(many_rows_impl);

int64_t many_rows_workspace(int64_t m, int64_t k) {
  return (piece_rows(m, k) + kMostBlockRows) * k;
}

void many_rows(const Product& product, float* workspace) {
  HWY_DYNAMIC_DISPATCH(many_rows_impl)(product, workspace);
}

}  // namespace mamba::ops::linear_detail
#endif
