// As many_rows.cpp, where both operands are bfloat16 and the processor adds up the products of pairs. An element of the
// packed operands is a pair of neighbours in k, so nothing is widened, and packing bfloat16 by k (gradients) is
// interleaving two rows. Blocks of 8 rows x 3 vectors of sums: their loop does nothing else in 24 multiplications than
// 11 loads, and runs at the speed of the multipliers (235 of 236 GFLOP/s on one core of Zen 4) as long as a tile of the
// right operand stays in the second-level cache.
//
// Each element of the result is one chain of sums in the order of k, whatever the other rows and columns are.

#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/linear/many_rows.h"

#ifdef MAMBA_AVX512_BF16
#include <algorithm>

#include "mamba/base/threads.h"
#include "mamba/ops/linear/beside_bf16-inl.h"
#include "mamba/ops/linear/tile_bf16-inl.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::linear_detail {
namespace {

constexpr int64_t kPiecePairs = 2 << 20;  // packed rows of the left operand at a time: 8 MiB
constexpr int64_t kMinPieceRows = 128;

// With one pass over k nothing waits for another, so that pieces may be long.
constexpr int64_t piece_rows(int64_t m, int64_t k) {
  const int64_t most = pairs_of(k) <= kMaxDepth ? m : kMaxPieceRows;
  const int64_t fit = kPiecePairs / std::max<int64_t>(pairs_of(k), 1) / kRows * kRows;
  return std::min({m, most, std::max(kMinPieceRows, fit)});
}

class Bf16ManyRows : public ManyRows {
 public:
  // A PanelSource has whole groups of 64 pairs.
  bool fits(int64_t k) const override { return k > 0 && pairs_of(k) <= kMaxDepth; }
  int64_t block_rows() const override { return kRows; }
  int64_t panel_columns() const override { return kPanel; }
  int64_t tile_columns(int64_t k) const override { return tile_columns_for(k); }

  int64_t left_floats(int64_t rows, int64_t k) const override { return left_pairs(rows, k); }
  int64_t panel_floats(int64_t columns, int64_t k) const override {
    return (columns + kPanel - 1) / kPanel * kPanel * pairs_of(k);
  }

  void pack_left(const Rows& x, int64_t first, int64_t begin, int64_t end, int64_t k, float* packed) const override {
    linear_detail::pack_left(x, first, begin, end, k, reinterpret_cast<uint32_t*>(packed));
  }

  void pack_panels(const Product& product, int64_t begin, int64_t end, float* panels) const override {
    const int64_t pairs = pairs_of(product.k);
    pack_tile(product, begin, end - begin, 0, pairs, reinterpret_cast<uint32_t*>(panels) + begin * pairs);
  }

  void multiply_rows(const Product& product, const float* left, int64_t first, int64_t begin, int64_t end,
                     const float* panels) const override {
    FetchBeside results(product);
    multiply_packed(product, reinterpret_cast<const uint32_t*>(left), first, begin, end, 0, product.n, 0,
                    pairs_of(product.k), reinterpret_cast<const uint32_t*>(panels), nullptr, results);
  }

  void multiply_columns(const Product& product, const float* left, int64_t begin, int64_t end) const override {
    const int64_t step = tile_columns_for(product.k);
    for (int64_t n = begin; n < end; n += step) {
      multiply_tile(product, reinterpret_cast<const uint32_t*>(left), 0, 0, product.m, n, std::min(step, end - n),
                    {&product, n + step});
    }
  }
};

}  // namespace

bool bf16::can_multiply(const Product& product) {
  return product.k > 0 && product.left.rows.type == Float::kBfloat16 && product.right.matrix.type == Float::kBfloat16 &&
         cpu::has_bf16_products();
}

int64_t bf16::many_rows_workspace(int64_t m, int64_t k) {
  return (piece_rows(m, k) + 2 * kRows) * pairs_of(k);
}

void bf16::many_rows(const Product& product, float* workspace) {
  auto* const packed = reinterpret_cast<uint32_t*>(workspace);
  const int64_t piece = piece_rows(product.m, product.k);
  for (int64_t begin = 0; begin < product.m; begin += piece) {
    const int64_t end = std::min(product.m, begin + piece);
    const int64_t blocks = (end - begin + kRows - 1) / kRows;
    parallel_for(blocks, product.left.transposed ? 32 : 4, [&](int64_t from, int64_t to) {
      pack_left(product.left, begin, begin + from * kRows, std::min(end, begin + to * kRows), product.k, packed);
    });
    const Cut cut(product, end - begin);
    if (PieceBeside::can_multiply(product)) {
      PieceBeside(product, packed, begin, end, cut.split_rows, cut.columns).multiply();
      continue;
    }
    parallel_for(cut.tasks(), 1, [&](int64_t from, int64_t to) {
      for (int64_t task = from; task < to; ++task) {
        // Threads take turns where tasks take equally long.
        multiply_task(product, packed, begin, end, cut, task, {&product, cut.column_of(task + num_threads())});
      }
    });
  }
}

const ManyRows& bf16::many_rows_in_pieces() {
  static const Bf16ManyRows pieces;
  return pieces;
}

}  // namespace mamba::ops::linear_detail
MAMBA_AVX512_BF16_END

#else

namespace mamba::ops::linear_detail {
bool bf16::can_multiply(const Product&) {
  return false;
}
int64_t bf16::many_rows_workspace(int64_t, int64_t) {
  return 0;
}
void bf16::many_rows(const Product&, float*) {}
const ManyRows& bf16::many_rows_in_pieces() {
  return linear_detail::many_rows_in_pieces();
}
}  // namespace mamba::ops::linear_detail
#endif
