// Inside linear: what packed products ask memory for ahead of time. While blocks are multiplied, it has nothing else to
// do.
#pragma once

#include <algorithm>
#include <cstdint>

#include "mamba/base/sliced_work.h"
#include "mamba/ops/cpu/prefetch.h"
#include "mamba/ops/linear/many_rows.h"

namespace mamba::ops::linear_detail {

// The lines of memory that a block's results go to, asked for so that storing them waits for none.
struct ResultLines {
  void* const* rows = nullptr;
  int64_t count = 0;  // of rows
  int64_t first = 0, bytes = 0;

  ResultLines() = default;

  // Columns [n, n + columns) of `wanted` rows from `row` on.
  ResultLines(const OutRows& out, int64_t row, int64_t wanted, int64_t n, int64_t columns)
      : rows(out.rows.data() + row), count(wanted), first(n * size_of(out.type)), bytes(columns * size_of(out.type)) {}

  __attribute__((always_inline)) inline void fetch() const { fetch(0, count); }

  // Those of rows [begin, end).
  __attribute__((always_inline)) inline void fetch(int64_t begin, int64_t end) const {
    for (int64_t i = begin; i < end; ++i) {
      auto* const to = static_cast<char*>(rows[i]) + first;
      for (int64_t byte = 0; byte < bytes; byte += 64) {
        cpu::prefetch_to_write(to + byte);
      }
      cpu::prefetch_to_write(to + bytes - 1);
    }
  }
};

// Brings a part of the right operand into the second-level cache, some lines at a time: packing it is then quick.
class PartFetch {
 public:
  // Columns [n, n + columns), as far as there are any, while `blocks` of them are multiplied.
  PartFetch(const Product& product, int64_t n, int64_t columns, int64_t blocks) {
    const Matrix& matrix = product.right.matrix;
    const int64_t size = size_of(matrix.type);
    const int64_t count = std::clamp<int64_t>(product.n - n, 0, columns);
    if (count == 0 || matrix.data == nullptr) {
      return;
    }
    at_ = static_cast<const char*>(matrix.data) + size * (product.right.by_k ? n : n * matrix.stride);
    rows_ = product.right.by_k ? product.k : count;
    row_bytes_ = size * (product.right.by_k ? count : product.k);
    stride_ = size * matrix.stride;
    const int64_t lines = rows_ * ((row_bytes_ + kLineBytes - 1) / kLineBytes);
    lines_per_block_ = (lines + blocks - 1) / blocks;
  }

  int64_t lines_per_block() const { return lines_per_block_; }

  void next(int64_t lines) {
    for (int64_t i = 0; i < lines && rows_ > 0; ++i) {
      __builtin_prefetch(at_ + done_, 0, 2);
      done_ += kLineBytes;
      if (done_ >= row_bytes_) {
        done_ = 0;
        --rows_;
        at_ += rows_ > 0 ? stride_ : 0;
      }
    }
  }

 private:
  static constexpr int64_t kLineBytes = 64;
  const char* at_ = nullptr;
  int64_t rows_ = 0, row_bytes_ = 0, stride_ = 0;
  int64_t lines_per_block_ = 0;
  int64_t done_ = 0;
};

// What is asked for while one block is multiplied: the lines of its results, then its share of the part, and lines of
// work that waits. In steps, since more lines at once than a core waits for at a time stop it until some have come.
class BlockFetch {
 public:
  // Columns [n, n + columns) of `rows` rows from `row` on are its results; in `steps` of next(). The lines are
  // described where they are kept: a copy, by vectors, would wait until all that the block before stored has left the
  // core.
  BlockFetch(const OutRows& out, int64_t row, int64_t rows, int64_t n, int64_t columns, PartFetch& part,
             SlicesBeside& slices, int64_t steps)
      : results_(out, row, rows, n, columns), part_(part), slices_(slices) {
    const int64_t first = std::max<int64_t>(1, steps / 2);
    rows_at_once_ = (rows + first - 1) / first;
    lines_at_once_ = (part.lines_per_block() + steps - 1) / std::max<int64_t>(1, steps);
  }

  __attribute__((always_inline)) inline void next() {
    const int64_t end = std::min(results_.count, done_ + rows_at_once_);
    results_.fetch(done_, end);
    done_ = end;
    part_.next(lines_at_once_);
    slices_.step();
  }

  // Once more when the block is nearly done: the lines have come as far as the second-level cache, past what was read
  // since.
  __attribute__((always_inline)) inline void last() const { results_.fetch(); }

 private:
  ResultLines results_;
  PartFetch& part_;
  SlicesBeside& slices_;
  int64_t rows_at_once_ = 0, lines_at_once_ = 0;
  int64_t done_ = 0;
};

}  // namespace mamba::ops::linear_detail
