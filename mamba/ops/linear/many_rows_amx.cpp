// As many_rows_bf16.cpp, on tiles of 16 rows of 32 bfloat16 numbers that the processor multiplies as a whole. Four
// tiles of sums, 32 rows x 32 columns, take two tiles of each operand for every 32 elements of k: 4 KiB in the 64
// cycles of four multiplications. So a panel of 32 columns of the right operand, 512 deep, stays in the first-level
// cache over some rows of the left, which come from the second and by it. Panels are packed once for all rows, between
// the multiplications of the panel before; the left operand beforehand, by all threads.
//
// Each element of the result is one chain of sums in the order of k, whatever the other rows and columns are.

#include <atomic>

#include "mamba/ops/cpu/avx512_bf16.h"
#include "mamba/ops/linear/many_rows.h"

#ifdef MAMBA_AVX512_BF16
#include <algorithm>

#include "mamba/base/threads.h"
#include "mamba/ops/linear/fetch.h"
#include "mamba/ops/linear/multiply_tiles-inl.h"
#include "mamba/ops/linear/pack_tiles-inl.h"
#include "mamba/ops/linear/tiles-inl.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::linear_detail {
namespace {

std::atomic<bool> emulates{false};

constexpr int64_t kMaxSteps = 16;     // of k in a pass
constexpr int64_t kMaxColumns = 256;  // of a task
constexpr int64_t kMaxTile = kMaxSteps * kStep * kMaxColumns;
constexpr int64_t kMaxPassRows = 512;        // of a task with several passes over k, and
constexpr int64_t kMaxPassColumns = 192;     // its columns: as many sums wait for the rest of k
constexpr int64_t kChunk = 256 << 10;        // elements of the left operand that stay in the second-level cache
constexpr int64_t kTasks = 2;                // of a thread, at least, as far as columns give them
constexpr int64_t kPieceElements = 4 << 20;  // packed rows of the left operand at a time: 8 MiB
constexpr int64_t kMinPieceRows = 512;

constexpr int64_t rounded_up(int64_t value, int64_t step) {
  return (value + step - 1) / step * step;
}

constexpr int64_t piece_rows(int64_t m, int64_t k) {
  const int64_t fit = kPieceElements / (steps_of(k) * kStep) / kBlockRows * kBlockRows;
  return std::min(rounded_up(m, kBlockRows), std::max(kMinPieceRows, fit));
}

// Which part of a product a task is.
struct Part {
  int64_t piece_begin;  // the row at which `packed` begins
  int64_t begin, end;   // rows
  int64_t n, columns;
  int64_t next_n;  // columns that probably come next
};

struct Passes {
  int64_t steps;  // of k in each, but for the last
  int64_t count;

  explicit Passes(int64_t k) {
    const int64_t all = steps_of(k);
    count = (all + kMaxSteps - 1) / kMaxSteps;
    steps = (all + count - 1) / count;
  }
};

template <typename Tiles>
void multiply_part(const Product& product, const uint16_t* packed, const Part& part) {
  alignas(64) uint16_t tile[kMaxTile];
  alignas(64) float partial[kMaxPassRows * kMaxPassColumns];
  alignas(64) float sums[2][kBlockRows * kPanelColumns];
  Tiles tiles;
  const int64_t steps = steps_of(product.k);
  const Passes passes(product.k);
  const int64_t panels = (part.columns + kPanelColumns - 1) / kPanelColumns;
  const int64_t row_blocks = (part.end - part.begin + kBlockRows - 1) / kBlockRows;
  const int64_t chunk = std::max<int64_t>(1, kChunk / (passes.steps * kPanelStep));  // blocks of rows
  PartFetch fetch(product, part.next_n, part.columns, row_blocks * panels * passes.count);
  Between between(product);
  int64_t turn = 0;
  const auto columns_of = [&](int64_t p) { return std::min(kPanelColumns, part.columns - p * kPanelColumns); };
  for (int64_t pass = 0; pass < passes.count; ++pass) {
    const int64_t first = pass * passes.steps;
    const int64_t depth = std::min(passes.steps, steps - first);
    const bool last = pass + 1 == passes.count;
    const auto pack = [&](int64_t p, int64_t turns) {
      between.pack(part.n + p * kPanelColumns, columns_of(p), first, depth, turns, tile + p * depth * kPanelStep);
    };
    pack(0, 1);
    between.pack_rest();
    for (int64_t top = 0; top < row_blocks; top += chunk) {
      const int64_t bottom = std::min(row_blocks, top + chunk);
      for (int64_t p = 0; p < panels; ++p) {
        const int64_t n = part.n + p * kPanelColumns;
        const int64_t columns = columns_of(p);
        if (top == 0 && p + 1 < panels) {
          pack(p + 1, (bottom - top) * depth);
        }
        for (int64_t i = top; i < bottom; ++i) {
          const int64_t row = part.begin + i * kBlockRows;
          const int64_t rows = std::min(kBlockRows, part.end - row);
          fetch.next(fetch.lines_per_block());
          if (last) {
            ResultLines(product.out, row, rows, n, columns).fetch();
          }
          float* const to =
              passes.count == 1 ? sums[turn ^= 1] : partial + (p * row_blocks + i) * kBlockRows * kPanelColumns;
          const Block block{.left = packed + ((row - part.piece_begin) / 16 * steps + first) * kTileElements,
                            .left_rows = steps * kTileElements,
                            .right = tile + p * depth * kPanelStep,
                            .steps = depth,
                            .add = pass > 0,
                            .sums = to};
          multiply_block(tiles, rows, columns, block, between);
          if (last) {
            between.finish(row, rows, n, columns, to);
          }
        }
        between.pack_rest();
      }
    }
  }
  between.finish_rest();
}

template <typename Tiles>
void multiply_all(const Product& product, float* workspace) {
  auto* const packed = reinterpret_cast<uint16_t*>(workspace);
  const int64_t piece = piece_rows(product.m, product.k);
  const Passes passes(product.k);
  const int64_t most_columns = passes.count > 1 ? kMaxPassColumns : kMaxColumns;
  const int64_t most_rows = passes.count > 1 ? kMaxPassRows : piece;
  for (int64_t begin = 0; begin < product.m; begin += piece) {
    const int64_t end = std::min(product.m, begin + piece);
    const int64_t left_tiles = rounded_up(end - begin, kBlockRows) / 16;
    parallel_for((left_tiles + 1) / 2, product.left.transposed ? 8 : 1, [&](int64_t from, int64_t to) {
      pack_left_tiles(product.left, begin, product.m, product.k, 2 * from, std::min(2 * to, left_tiles), packed);
    });
    const int64_t wanted = kTasks * num_threads();
    int64_t tiles = (product.n + most_columns - 1) / most_columns;
    if (tiles > 1 || product.n > 8 * kPanelColumns) {
      tiles = rounded_up(tiles, wanted);
    }
    const int64_t columns = rounded_up((product.n + tiles - 1) / tiles, kPanelColumns);
    tiles = (product.n + columns - 1) / columns;
    const int64_t least = (end - begin + most_rows - 1) / most_rows;
    const int64_t splits = std::max(least, std::min(wanted / tiles, (end - begin) / 256));
    const int64_t split_rows = rounded_up((end - begin + splits - 1) / splits, kBlockRows);
    parallel_for(tiles * splits, 1, [&](int64_t from, int64_t to) {
      for (int64_t task = from; task < to; ++task) {
        const int64_t n = task / splits * columns;
        const int64_t row = begin + task % splits * split_rows;
        const Part part{.piece_begin = begin,
                        .begin = row,
                        .end = std::min(end, row + split_rows),
                        .n = n,
                        .columns = std::min(columns, product.n - n),
                        .next_n = (task + num_threads()) / splits * columns};
        if (part.begin < part.end) {
          multiply_part<Tiles>(product, packed, part);
        }
      }
    });
  }
}

}  // namespace

bool amx::can_multiply(const Product& product) {
  return product.k > 0 && product.left.rows.type == Float::kBfloat16 && product.right.matrix.type == Float::kBfloat16 &&
         cpu::has_bf16_products() && (is_emulated() || cpu::has_tiles());
}

void amx::set_emulated(bool on) {
  emulates.store(on);
}

bool amx::is_emulated() {
  return emulates.load(std::memory_order_relaxed);
}

int64_t amx::many_rows_workspace(int64_t m, int64_t k) {
  return piece_rows(m, k) * steps_of(k) * kStep / 2;
}

void amx::many_rows(const Product& product, float* workspace) {
#ifdef MAMBA_AMX
  if (!is_emulated()) {
    multiply_all<ProcessorTiles>(product, workspace);
    return;
  }
#endif
  multiply_all<EmulatedTiles>(product, workspace);
}

}  // namespace mamba::ops::linear_detail
MAMBA_AVX512_BF16_END

#else

namespace mamba::ops::linear_detail {
bool amx::can_multiply(const Product&) {
  return false;
}
void amx::set_emulated(bool) {}
bool amx::is_emulated() {
  return false;
}
int64_t amx::many_rows_workspace(int64_t, int64_t) {
  return 0;
}
void amx::many_rows(const Product&, float*) {}
}  // namespace mamba::ops::linear_detail
#endif
