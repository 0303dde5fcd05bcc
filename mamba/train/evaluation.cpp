#include "mamba/train/evaluation.h"

#include <mlx/transforms.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <vector>

#include "mamba/train/data/batches.h"
#include "mamba/train/objective.h"

namespace mamba::train {

namespace mx = mlx::core;

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
    std::vector<int64_t> indices(static_cast<size_t>(std::min(at_once, count - first)));
    std::iota(indices.begin(), indices.end(), first);
    const Batch batch = read_batch(windows, indices);
    const int rows = batch.tokens.shape(0);
    auto [loss, state] = loss_sum(model, batch, carried.value_or(model.initial_state(rows)));
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
