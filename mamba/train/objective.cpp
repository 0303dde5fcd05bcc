// The table of embeddings is used twice where it is tied: rows are looked up for the input, and all of it makes the
// output. The look-up is left out of what MLX differentiates: the gradient of the looked-up rows is asked for instead,
// and added into that of the output projection in one pass (ops/embedding).

#include "mamba/train/objective.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "mamba/base/error.h"
#include "mamba/ops/embedding/embedding_gradient.h"
#include "mamba/ops/linear_cross_entropy/linear_cross_entropy.h"

namespace mamba::train {

namespace mx = mlx::core;

namespace {

constexpr const char* kEmbeddings = "backbone.embeddings.weight";

mx::array embedded(const models::MambaLM& model, const mx::array& tokens) {
  return mx::astype(mx::take(model.embedding_weight(), tokens, 0), model.dtype());
}

std::pair<mx::array, models::State> summed_loss(const models::MambaLM& model, const mx::array& embeddings,
                                                const Batch& batch, const models::State& state,
                                                const ObjectiveOptions& objective) {
  models::ForwardOptions options;
  options.resets = batch.resets;
  options.recompute = objective.recompute;
  options.dropout = objective.dropout;
  auto [hidden, next] = model.hidden_of(embeddings, state, options);
  const mx::array losses =
      ops::linear_cross_entropy(hidden, model.output_weight(), batch.targets, {.ignore_index = kIgnored});
  return {mx::sum(losses), std::move(next)};
}

// Where the embeddings stand among the trainable arrays; -1 where they are frozen.
int embeddings_index(const Trainable& trainable) {
  int found = -1;
  int index = 0;
  trainable.visit("", [&](const std::string& path, mx::array&) {
    if (path == kEmbeddings) {
      found = index;
    }
    ++index;
  });
  return found;
}

}  // namespace

Gradients loss_and_gradients(models::MambaLM& model, const Trainable& trainable, const Batch& batch,
                             const models::State& state, double divisor, const ObjectiveOptions& options) {
  const std::vector<mx::array> parameters = nn::parameter_list(trainable);
  check(!parameters.empty(), "[loss_and_gradients] nothing is trainable");
  const int embeddings = embeddings_index(trainable);
  std::vector<mx::array> primals = parameters;
  primals.push_back(embedded(model, batch.tokens));

  std::vector<int> wanted;
  for (int i = 0; i < static_cast<int>(parameters.size()); ++i) {
    if (i != embeddings || model.config().tie_embeddings) {
      wanted.push_back(i);
    }
  }
  if (embeddings >= 0) {
    wanted.push_back(static_cast<int>(parameters.size()));
  }
  const auto loss = [&](const std::vector<mx::array>& in) {
    nn::set_parameter_list(trainable, {in.begin(), in.end() - 1});
    auto [sum, after] = summed_loss(model, in.back(), batch, state, options);
    std::vector<mx::array> out = {mx::multiply(sum, mx::array(static_cast<float>(1.0 / divisor)))};
    for (const mx::array& a : after.arrays()) {
      out.push_back(mx::stop_gradient(a));
    }
    return out;
  };
  std::pair<std::vector<mx::array>, std::vector<mx::array>> result;
  try {
    result = mx::value_and_grad(loss, wanted)(primals);
  } catch (...) {
    nn::set_parameter_list(trainable, parameters);
    throw;
  }
  nn::set_parameter_list(trainable, parameters);

  auto& [values, gradients] = result;
  if (embeddings >= 0) {
    const mx::array rows = std::move(gradients.back());
    gradients.pop_back();
    const int vocab = model.embedding_weight().shape(0);
    const auto at = gradients.begin() + embeddings;
    if (model.config().tie_embeddings) {
      *at = ops::embedding_gradient(batch.tokens, rows, vocab, std::move(*at));
    } else {
      gradients.insert(at, ops::embedding_gradient(batch.tokens, rows, vocab));
    }
  }
  return {values[0], std::move(gradients), models::State::from_arrays({values.begin() + 1, values.end()})};
}

std::pair<mx::array, models::State> loss_sum(const models::MambaLM& model, const Batch& batch,
                                             const models::State& state) {
  return summed_loss(model, embedded(model, batch.tokens), batch, state, {});
}

}  // namespace mamba::train
