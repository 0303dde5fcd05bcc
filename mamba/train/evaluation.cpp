#include "mamba/train/evaluation.h"

#include <mlx/transforms.h>

#include <algorithm>
#include <vector>

#include "mamba/train/objective.h"

namespace mamba::train {

namespace mx = mlx::core;

namespace {

Batch read_batch(const Windows& windows, int64_t first, int64_t rows) {
  const int64_t length = windows.length();
  const auto size = static_cast<size_t>(rows * length);
  std::vector<int32_t> tokens(size);
  std::vector<int32_t> targets(size);
  std::vector<uint8_t> resets(size);
  int64_t count = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t at = r * length;
    count += windows.read(first + r, tokens.data() + at, targets.data() + at, resets.data() + at);
  }
  const mx::Shape shape = {static_cast<int>(rows), static_cast<int>(length)};
  Batch batch{mx::array(tokens.begin(), shape, mx::int32), mx::array(targets.begin(), shape, mx::int32), std::nullopt,
              count};
  if (windows.has_resets()) {
    batch.resets = mx::array(resets.begin(), shape, mx::uint8);
  }
  return batch;
}

}  // namespace

double held_out_loss(const models::MambaLM& model, const Windows& windows, const EvaluationOptions& options,
                     const std::function<void()>& pause) {
  const int64_t count = options.most_windows < 0 ? windows.count() : std::min(windows.count(), options.most_windows);
  const int64_t at_once = options.carry_state ? 1 : options.batch_size;
  double sum = 0;
  int64_t targets = 0;
  std::optional<models::State> carried;
  for (int64_t first = 0; first < count; first += at_once) {
    if (pause) {
      pause();
    }
    const int64_t rows = std::min(at_once, count - first);
    const Batch batch = read_batch(windows, first, rows);
    auto [loss, state] = loss_sum(model, batch, carried.value_or(model.initial_state(static_cast<int>(rows))));
    std::vector<mx::array> results = {loss};
    if (options.carry_state) {
      const std::vector<mx::array> arrays = state.arrays();
      results.insert(results.end(), arrays.begin(), arrays.end());
      carried = std::move(state);
    }
    mx::eval(results);
    sum += static_cast<double>(loss.item<float>());
    targets += batch.target_count;
  }
  return sum / static_cast<double>(targets);
}

}  // namespace mamba::train
