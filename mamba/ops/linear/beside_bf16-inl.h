// Pieces of bf16::many_rows: threads that pack their next tile beside the blocks that they multiply, in steps between
// some pairs of k and the next. Of a right operand that lies in rows of k: where it lies by k, asking for its lines and
// packing it in one go is faster.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <utility>

#include "mamba/base/sliced_work.h"
#include "mamba/base/threads.h"
#include "mamba/ops/linear/block_bf16-inl.h"
#include "mamba/ops/linear/fetch.h"
#include "mamba/ops/linear/pack_beside-inl.h"

MAMBA_AVX512_BF16_BEGIN
namespace mamba::ops::linear_detail {
namespace {

// In a block whose sums are over `depth` pairs: none in the last of them.
constexpr int64_t steps_of(int64_t depth) {
  return depth > kFetchStep ? (depth - 1) / kFetchStep : 0;
}

class PackBeside;

// The steps of one block. At first the lines of its results are asked for, too.
class BlockSteps {
 public:
  // As BlockFetch.
  BlockSteps(const OutRows& out, int64_t row, int64_t rows, int64_t n, int64_t columns, int64_t depth,
             PackBeside& beside)
      : results_(out, row, rows, n, columns), beside_(beside) {
    const int64_t early = std::max<int64_t>(1, steps_of(depth) / 2);
    rows_at_once_ = (kRows + early - 1) / early;
  }

  __attribute__((always_inline)) inline void next();
  __attribute__((always_inline)) inline void last() const { results_.fetch(); }

 private:
  ResultLines results_;
  PackBeside& beside_;
  int64_t rows_at_once_ = 0;
  int64_t done_ = 0;
};

// While `steps` steps are done: columns [n, n + columns) of the right operand are packed, as late as will do, so that
// they are still near when their turn comes. In all of them work that waits asks for its lines.
class PackBeside {
 public:
  PackBeside(const Product& product, int64_t n, int64_t columns, uint32_t* tile, int64_t steps)
      : right_(product, n, std::min(columns, product.n - n), tile),
        wait_(steps - right_.steps() - kMargin),
        slices_(steps) {}

  BlockSteps block(const OutRows& out, int64_t row, int64_t rows, int64_t n, int64_t columns, int64_t depth) {
    return BlockSteps(out, row, rows, n, columns, depth, *this);
  }

  __attribute__((always_inline)) inline void step() {
    slices_.step();
    --wait_;
    if (wait_ < 0 && right_.is_open()) {
      right_.step();
    }
  }

  void end_block() { slices_.run_ready(); }
  void finish() { right_.finish(); }

 private:
  static constexpr int64_t kMargin = 16;

  TilePacker right_;
  int64_t wait_ = 0;  // steps before the tile is begun
  SlicesBeside slices_;
};

__attribute__((always_inline)) inline void BlockSteps::next() {
  const int64_t end = std::min(results_.count, done_ + rows_at_once_);
  results_.fetch(done_, end);
  done_ = end;
  beside_.step();
}

// Deals out tasks. A thread knows its next one while it is busy with the one before; where none is left it may have
// what another has prepared and not begun.
class Tasks {
 public:
  static constexpr int64_t kMaxWorkers = 512;
  static constexpr int64_t kNone = -1;

  Tasks(int64_t count, int64_t workers) : count_(count), workers_(workers) {
    for (int64_t i = 0; i < workers; ++i) {
      prepared_[static_cast<size_t>(i)].store(kNone, std::memory_order_relaxed);
    }
  }

  // The next task of all; kNone when they are all taken.
  int64_t take() {
    const int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
    return task < count_ ? task : kNone;
  }

  // The same for later.
  int64_t prepare(int64_t worker) {
    const int64_t task = take();
    prepared_[static_cast<size_t>(worker)].store(task, std::memory_order_relaxed);
    return task;
  }

  // What the worker has prepared, unless somebody else has begun it.
  int64_t begin_prepared(int64_t worker) {
    return prepared_[static_cast<size_t>(worker)].exchange(kNone, std::memory_order_relaxed);
  }

  // What anybody has.
  int64_t take_prepared() {
    for (int64_t i = 0; i < workers_; ++i) {
      if (const int64_t task = begin_prepared(i); task != kNone) {
        return task;
      }
    }
    return kNone;
  }

 private:
  int64_t count_, workers_;
  std::atomic<int64_t> next_{0};
  std::array<std::atomic<int64_t>, kMaxWorkers> prepared_;
};

// The rows of a packed piece against all columns, by all threads.
class PieceBeside {
 public:
  // Rows [begin, end) in tasks of so many rows and columns.
  PieceBeside(const Product& product, const uint32_t* packed, int64_t begin, int64_t end, int64_t task_rows,
              int64_t task_columns)
      : product_(product),
        begin_(begin),
        end_(end),
        packed_(packed),
        pairs_(pairs_of(product.k)),
        columns_(task_columns),
        split_rows_(task_rows),
        splits_((end - begin + task_rows - 1) / task_rows),
        tasks_count_((product.n + task_columns - 1) / task_columns * splits_),
        workers_(std::min({int64_t{num_threads()}, tasks_count_, Tasks::kMaxWorkers})),
        tasks_(tasks_count_, workers_) {}

  // Of products whose right operand lies in memory, in rows of k, of one pass over k.
  static bool can_multiply(const Product& product) {
    return !product.right.by_k && product.right.panels == nullptr && pairs_of(product.k) <= kMaxDepth;
  }

  void multiply() {
    parallel_for(workers_, 1, [&](int64_t from, int64_t to) {
      for (int64_t worker = from; worker < to; ++worker) {
        work(worker);
      }
    });
  }

 private:
  // Of one tile and one split of the rows.
  struct Task {
    int64_t n = 0, columns = 0;
    int64_t begin = 0, end = 0;
  };

  Task task_at(int64_t index) const {
    if (index == Tasks::kNone) {
      return {};
    }
    Task task;
    task.n = index / splits_ * columns_;
    task.columns = std::min(columns_, product_.n - task.n);
    task.begin = begin_ + index % splits_ * split_rows_;
    task.end = std::min(end_, task.begin + split_rows_);
    return task;
  }

  // A tile that nobody has packed is packed panel by panel, but for the first beside the panel before.
  void multiply_task(const Task& task, const Task& next, bool is_packed, uint32_t* tile, uint32_t* next_tile) {
    const int64_t step = is_packed ? task.columns : kPanel;
    if (!is_packed) {
      pack_tile(product_, task.n, std::min(kPanel, task.columns), 0, pairs_, tile);
    }
    for (int64_t done = 0; done < task.columns; done += step) {
      const int64_t n = task.n + done;
      const int64_t columns = std::min(step, task.columns - done);
      const bool is_last = done + step >= task.columns;
      PackBeside beside(
          product_, is_last ? next.n : n + step, is_last ? next.columns : std::min(step, task.columns - done - step),
          is_last ? next_tile : tile + (done + step) * pairs_, steps_of_rows(task.end - task.begin, columns));
      multiply_packed(product_, packed_, begin_, task.begin, task.end, n, columns, 0, pairs_, tile + done * pairs_,
                      nullptr, beside);
      beside.finish();
    }
  }

  void work(int64_t worker) {
    alignas(64) uint32_t tiles[2][kTilePairs];
    uint32_t* tile = tiles[0];
    uint32_t* next_tile = tiles[1];
    int64_t index = tasks_.take();
    bool is_packed = false;
    while (index != Tasks::kNone) {
      multiply_task(task_at(index), task_at(tasks_.prepare(worker)), is_packed, tile, next_tile);
      index = tasks_.begin_prepared(worker);
      is_packed = index != Tasks::kNone;
      if (is_packed) {
        std::swap(tile, next_tile);
        continue;
      }
      index = tasks_.take();
      if (index == Tasks::kNone) {
        index = tasks_.take_prepared();
      }
    }
  }

  int64_t steps_of_rows(int64_t rows, int64_t columns) const {
    return (rows + kRows - 1) / kRows * ((columns + kPanel - 1) / kPanel) * steps_of(pairs_);
  }

  const Product& product_;
  int64_t begin_, end_;
  const uint32_t* packed_;
  int64_t pairs_;
  int64_t columns_, split_rows_, splits_, tasks_count_, workers_;
  Tasks tasks_;
};

}  // namespace
}  // namespace mamba::ops::linear_detail
MAMBA_AVX512_BF16_END
