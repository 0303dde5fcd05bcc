#include "mamba/train/data/batches.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/base/mix_bits.h"
#include "mamba/train/data/permutation.h"

namespace mamba::train {

namespace mx = mlx::core;

namespace {

// Number `at` of all epochs' permutations of `count` things, one behind the other.
int64_t shuffled(int64_t at, int64_t count, uint64_t seed) {
  return Permutation(count, seed, static_cast<uint64_t>(at / count))(at % count);
}

}  // namespace

Batches::Batches(Windows windows, const BatchOptions& options) : windows_(std::move(windows)), options_(options) {
  if (options_.batch_size < 1) {
    throw UsageError(
        fmt::format("a batch must have at least one row but batch size {} was asked for", options_.batch_size));
  }
  if (options_.batch_size > std::numeric_limits<int32_t>::max() / windows_.length()) {
    throw UsageError(fmt::format("{} rows of {} tokens are too many for one batch: the limit is {} tokens",
                                 options_.batch_size, windows_.length(), std::numeric_limits<int32_t>::max()));
  }
  const int64_t count = windows_.count();
  per_epoch_ = options_.carry_state ? std::max<int64_t>(1, count / options_.batch_size)
                                    : (count + options_.batch_size - 1) / options_.batch_size;
  if (!options_.plain_share) {
    return;
  }
  varied_ = windows_.varied();
  plain_rows_ = std::llround(std::clamp(*options_.plain_share, 0.0, 1.0) * static_cast<double>(options_.batch_size));
  const int64_t varied = varied_.end - varied_.begin;
  if (varied == 0 || varied == count) {
    throw UsageError(fmt::format(
        "of {} windows {} show text cut in other ways than in use, so a batch cannot mix them: give more data or a "
        "shorter window",
        count, varied));
  }
}

int64_t Batches::window(int64_t number, int64_t row) const {
  const int64_t count = windows_.count();
  const int64_t rows = options_.batch_size;
  if (options_.carry_state) {
    return (row * per_epoch_ + number % per_epoch_) % count;
  }
  const int64_t place = number * rows + row;
  if (!options_.shuffle) {
    return place % count;
  }
  if (!options_.plain_share) {
    return shuffled(place, count, options_.seed);
  }
  const int64_t varied = varied_.end - varied_.begin;
  if (number < options_.plain_from && row >= plain_rows_) {
    return varied_.begin + shuffled(number * (rows - plain_rows_) + row - plain_rows_, varied, mix_bits(options_.seed));
  }
  const int64_t mixed = std::min(number, options_.plain_from);
  const int64_t window = shuffled(mixed * plain_rows_ + (number - mixed) * rows + row, count - varied, options_.seed);
  return window < varied_.begin ? window : window + varied;
}

double Batches::epoch_of(int64_t number) const {
  if (options_.carry_state) {
    return static_cast<double>(number) / static_cast<double>(per_epoch_);
  }
  return static_cast<double>(number) * static_cast<double>(options_.batch_size) / static_cast<double>(windows_.count());
}

Batch Batches::at(int64_t number) const {
  check(number >= 0, "[batches] there is no batch {}", number);
  std::vector<int64_t> indices;
  for (int64_t row = 0; row < options_.batch_size; ++row) {
    indices.push_back(window(number, row));
  }
  Batch batch = read_batch(windows_, indices);
  batch.continues = continues(number);
  return batch;
}

Batch read_batch(const Windows& windows, std::span<const int64_t> indices) {
  const auto length = static_cast<size_t>(windows.length());
  const size_t size = indices.size() * length;
  std::vector<int32_t> tokens(size);
  std::vector<int32_t> targets(size);
  std::vector<uint8_t> resets(windows.has_resets() ? size : 0);
  int64_t target_count = 0;
  for (size_t row = 0; row < indices.size(); ++row) {
    const size_t at = row * length;
    target_count += windows.read(indices[row], tokens.data() + at, targets.data() + at,
                                 resets.empty() ? nullptr : resets.data() + at);
  }
  const mx::Shape shape = {static_cast<int>(indices.size()), static_cast<int>(length)};
  Batch batch{.tokens = mx::array(tokens.begin(), shape, mx::int32),
              .targets = mx::array(targets.begin(), shape, mx::int32),
              .resets = std::nullopt,
              .target_count = target_count};
  if (windows.has_resets()) {
    batch.resets = mx::array(resets.begin(), shape, mx::uint8);
  }
  return batch;
}

}  // namespace mamba::train
