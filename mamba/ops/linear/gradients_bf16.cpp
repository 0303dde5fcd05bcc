// Both gradients of a linear layer, dx = dy W and dW = dy^T x, as two loops. dy is the left operand of either product:
// its rows are packed for both while they are near, and the products' tasks are one list, so that threads are joined
// once for two products.

#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/linear/many_rows.h"

#ifdef MAMBA_AVX512_BF16
#include <algorithm>

#include "mamba/base/threads.h"
#include "mamba/ops/linear/tile_bf16-inl.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::linear_detail {
namespace {

constexpr int64_t kRowsAtOnce = 2 * kRows;
constexpr int64_t kStrip = 256;  // elements: kRowsAtOnce rows of them fit into a quarter of the first-level cache

// Rows [begin, end) of dy, `begin` a multiple of kRowsAtOnce, as the left operand of the one and as pairs of k of the
// other.
void pack_both(const Rows& dy, int64_t begin, int64_t end, int64_t columns, uint32_t* packed, uint32_t* turned) {
  const int64_t pairs = pairs_of(columns);
  for (int64_t first = 0; first < columns; first += kStrip) {
    const int64_t count = std::min(kStrip, columns - first);
    for (int64_t row = begin; row < end; row += kRows) {
      const int64_t rows = std::min(kRows, end - row);
      const uint16_t* from[kRows] = {};
      for (int64_t i = 0; i < rows; ++i) {
        from[i] = static_cast<const uint16_t*>(dy.rows[static_cast<size_t>(row + i)]) + first;
      }
      pack_eight(from, rows, count, kStrip * 2, packed + row * pairs + first / 2 * kRows, kRows);
    }
    pack_turned(dy, 0, first, first + count, dy.count(), begin / 2, pairs_of(end), turned);
  }
}

}  // namespace

bool bf16::can_multiply_both(const Product& of_x, const Product& of_weight) {
  return of_weight.m > 0 && can_multiply(of_x) && can_multiply(of_weight) && pairs_of(of_x.k) <= kMaxDepth &&
         pairs_of(of_weight.k) <= kMaxDepth;
}

int64_t bf16::both_workspace(int64_t rows, int64_t columns) {
  return left_pairs(rows, columns) + left_pairs(columns, rows);
}

void bf16::multiply_both(const Product& of_x, const Product& of_weight, float* workspace) {
  const Rows& dy = of_x.left.rows;
  auto* const packed = reinterpret_cast<uint32_t*>(workspace);
  uint32_t* const turned = packed + left_pairs(of_x.m, of_x.k);
  parallel_for((of_x.m + kRowsAtOnce - 1) / kRowsAtOnce, 2, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      pack_both(dy, i * kRowsAtOnce, std::min(of_x.m, (i + 1) * kRowsAtOnce), of_x.k, packed, turned);
    }
  });
  const Cut cut_weight(of_weight, of_weight.m);
  const Cut cut_x(of_x, of_x.m);
  const int64_t first_of_x = cut_weight.tasks();
  const auto next_of = [&](int64_t task) {
    return task < first_of_x ? NextTile{&of_weight, cut_weight.column_of(task)}
                             : NextTile{&of_x, cut_x.column_of(task - first_of_x)};
  };
  parallel_for(first_of_x + cut_x.tasks(), 1, [&](int64_t from, int64_t to) {
    for (int64_t task = from; task < to; ++task) {
      const NextTile next = next_of(task + num_threads());
      if (task < first_of_x) {
        multiply_task(of_weight, turned, 0, of_weight.m, cut_weight, task, next);
      } else {
        multiply_task(of_x, packed, 0, of_x.m, cut_x, task - first_of_x, next);
      }
    }
  });
}

}  // namespace mamba::ops::linear_detail
MAMBA_AVX512_BF16_END

#else

namespace mamba::ops::linear_detail {
bool bf16::can_multiply_both(const Product&, const Product&) {
  return false;
}
int64_t bf16::both_workspace(int64_t, int64_t) {
  return 0;
}
void bf16::multiply_both(const Product&, const Product&, float*) {}
}  // namespace mamba::ops::linear_detail
#endif
