// What a training step sees, as a pure function of the step's number: resuming needs the number alone.
#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <span>

#include "mamba/train/data/windows.h"

namespace mamba::train {

struct Batch {
  mlx::core::array tokens;                 // (B, L) int32
  mlx::core::array targets;                // (B, L) int32, kIgnored where nothing is to be learnt
  std::optional<mlx::core::array> resets;  // (B, L) uint8, 1 where a document starts; none for a stream of tokens
  int64_t target_count = 0;                // targets that count
  // Row r goes on where row r of the batch before ended. Only with carry_state; false for the first batch of a walk.
  bool continues = false;
};

// These windows as the rows of a batch. `indices` must not be empty.
Batch read_batch(const Windows& windows, std::span<const int64_t> indices);

struct BatchOptions {
  int64_t batch_size = 1;
  bool shuffle = true;       // each epoch in an order of its own
  bool carry_state = false;  // rows walk through contiguous windows; `shuffle` is without meaning then
  uint64_t seed = 0;
  // Shuffled only, of text that is cut in several ways (DatasetOptions::segmentations): so many of each batch's rows,
  // to the nearest, show it as it is cut in use, and from batch `plain_from` on all do. Without it rows come as their
  // windows do.
  std::optional<double> plain_share;
  int64_t plain_from = std::numeric_limits<int64_t>::max();
};

// With W windows and B rows, row r of batch s is
//   in order      window (s B + r) mod W
//   shuffled      the same place in the epochs' permutations one behind the other
//                 with plain_share, windows cut as in use and the others have permutations of their own, and each
//                 row takes the next of its kind
//   carry_state   window r n + (s mod n), n = floor(W / B): each row walks through n windows, and all begin anew with
//                 batch 0, n, 2 n, ... The W - n B windows at the end are left out. With W < B, n is 1 and row r is
//                 window r mod W.
// Immutable and thread-safe.
class Batches {
 public:
  // Throws UsageError unless 1 <= batch_size, for a batch of more than 2^31 - 1 tokens, and for a plain_share where the
  // windows are all of one kind.
  Batches(Windows windows, const BatchOptions& options);

  Batch at(int64_t number) const;  // number >= 0

  // The window that row `row` of batch `number` is.
  int64_t window(int64_t number, int64_t row) const;

  // Whether the state after batch number - 1 goes into batch `number`.
  bool continues(int64_t number) const { return options_.carry_state && number % per_epoch_ != 0; }

  int64_t per_epoch() const { return per_epoch_; }  // batches until every window (that is not left out) was seen
  double epoch_of(int64_t number) const;            // epochs that are over before batch `number`
  const Windows& windows() const { return windows_; }
  const BatchOptions& options() const { return options_; }

 private:
  Windows windows_;
  BatchOptions options_;
  int64_t per_epoch_;
  Dataset::Range varied_;  // windows
  int64_t plain_rows_ = 0;
};

}  // namespace mamba::train
