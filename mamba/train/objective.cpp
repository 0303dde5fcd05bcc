// The table of embeddings is used twice where it is tied: rows are looked up for the input, and all of it makes the
// output. The look-up is left out of what MLX differentiates: the gradient of the looked-up rows is asked for instead,
// and added into that of the output projection in one pass (ops/embedding).
//
// So is the output projection with its loss: ops::linear_cross_entropy_gradients gives losses and gradients from one
// look at the logits. What MLX differentiates is sum(hidden * g), g the gradient of the last hidden states.

#include "mamba/train/objective.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "mamba/base/error.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/embedding/embedding_gradient.h"
#include "mamba/ops/linear_cross_entropy/linear_cross_entropy.h"
#include "mamba/ops/settled/settled.h"

namespace mamba::train {

namespace mx = mlx::core;

namespace {

constexpr const char* kEmbeddings = "backbone.embeddings.weight";
constexpr const char* kOutput = "lm_head.weight";
constexpr int kPiecesOfLayer = 4;

mx::array embedded(const models::MambaLM& model, const mx::array& tokens) {
  return mx::astype(ops::rows_at(model.embedding_weight(), tokens), model.dtype());
}

// Whether a block is more to do for a GPU than for the host that sends it.
bool is_large(const models::MambaLM& model, const Batch& batch) {
  return model.dtype() == mx::float32 || batch.tokens.size() > models::kManyTokens;
}

// Whether its gradients are sent in pieces for the memory that this saves.
bool comes_in_pieces(const models::MambaLM& model, const Batch& batch) {
  constexpr size_t kManyMore = 16384;
  return model.dtype() == mx::float32 || batch.tokens.size() > kManyMore;
}

// The last hidden states (B, L, d_model), and the state after them.
std::pair<mx::array, models::State> hidden_of(const models::MambaLM& model, const mx::array& embeddings,
                                              const Batch& batch, const models::State& state,
                                              const ObjectiveOptions& objective,
                                              std::vector<mx::array>* pieces = nullptr,
                                              std::vector<std::vector<mx::array>>* backward_pieces = nullptr) {
  models::ForwardOptions options;
  options.resets = batch.resets;
  options.recompute = objective.recompute;
  options.dropout = objective.dropout;
  options.constant_states = true;
  const bool on_cpu = ops::on_cpu(mx::to_stream({}));
  options.pieces = on_cpu ? nullptr : pieces;
  options.backward_pieces = !on_cpu && comes_in_pieces(model, batch) ? backward_pieces : nullptr;
  return model.hidden_of(embeddings, state, options);
}

// Where a parameter stands among the trainable arrays; -1 where it is frozen.
int index_of(const Trainable& trainable, const char* wanted) {
  int found = -1;
  int index = 0;
  trainable.visit("", [&](const std::string& path, mx::array&) {
    if (path == wanted) {
      found = index;
    }
    ++index;
  });
  return found;
}

// The order in which the backward pass comes by them: layer by layer, the last one first, each with its `pieces` where
// there are some for all.
void add_from_last_layer(const Trainable& trainable, const std::vector<mx::array>& values, bool is_large,
                         const std::vector<std::vector<mx::array>>& pieces,
                         std::vector<std::vector<mx::array>>& order) {
  constexpr std::string_view kLayers = "layers.";
  std::vector<std::vector<mx::array>> layers;
  std::string last = "none";
  size_t next = 0;
  trainable.visit("", [&](const std::string& path, mx::array&) {
    const size_t start = path.find(kLayers);
    const std::string layer = start == std::string::npos ? "" : path.substr(0, path.find('.', start + kLayers.size()));
    if (layer != last) {
      layers.emplace_back();
      last = layer;
    }
    layers.back().push_back(values[next++]);
  });
  // Several at a time where the host needs longer to send one than the device to compute it; more in the second half,
  // when what is done has given its memory back.
  const size_t early = is_large ? 1 : 2;
  const size_t late = is_large ? 1 : 3;
  std::vector<mx::array> some;
  size_t count = 0;
  auto piece = pieces.begin();
  for (auto layer = layers.rbegin(); layer != layers.rend(); ++layer) {
    const bool is_layer = layer->size() > 1;  // and not the embeddings or the last norm
    for (int i = 0; i < kPiecesOfLayer && is_layer && piece != pieces.end(); ++i, ++piece) {
      if (i + 1 < kPiecesOfLayer) {
        order.push_back(*piece);
      } else {
        some.insert(some.end(), piece->begin(), piece->end());
      }
    }
    some.insert(some.end(), layer->begin(), layer->end());
    ++count;
    if (count % (2 * count <= layers.size() ? early : late) == 0 || count == layers.size()) {
      order.push_back(std::exchange(some, {}));
    }
  }
}

}  // namespace

Gradients loss_and_gradients(models::MambaLM& model, const Trainable& trainable, const Batch& batch,
                             const models::State& state, double divisor, const ObjectiveOptions& options) {
  const std::vector<mx::array> parameters = nn::parameter_list(trainable);
  check(!parameters.empty(), "[loss_and_gradients] nothing is trainable");
  const int embeddings = index_of(trainable, kEmbeddings);
  const int output = model.config().tie_embeddings ? embeddings : index_of(trainable, kOutput);
  std::vector<mx::array> primals = parameters;
  primals.push_back(embedded(model, batch.tokens));

  std::vector<int> wanted;
  for (int i = 0; i < static_cast<int>(parameters.size()); ++i) {
    if (i != embeddings && i != output) {
      wanted.push_back(i);
    }
  }
  if (embeddings >= 0) {
    wanted.push_back(static_cast<int>(parameters.size()));
  }
  const auto scale = static_cast<float>(1.0 / divisor);
  size_t pieces = 0;
  std::vector<std::vector<mx::array>> backward_pieces;
  // What is differentiated, the loss, the gradient of the output projection where it is trained, what pieces of the
  // work end in, and the state.
  const auto run = [&](const std::vector<mx::array>& in) {
    nn::set_parameter_list(trainable, {in.begin(), in.end() - 1});
    std::vector<mx::array> in_order;
    auto [hidden, after] = hidden_of(model, in.back(), batch, state, options, &in_order, &backward_pieces);
    const ops::LinearCrossEntropyGradients last =
        ops::linear_cross_entropy_gradients(mx::stop_gradient(hidden), mx::stop_gradient(model.output_weight()),
                                            batch.targets, scale, output >= 0, {.ignore_index = kIgnored});
    in_order.push_back(hidden);
    std::vector<mx::array> out = {mx::sum(mx::multiply(hidden, last.x)),
                                  mx::multiply(mx::sum(last.losses), mx::array(scale))};
    if (output >= 0) {
      out.push_back(*last.weight);
    }
    in_order.insert(in_order.end(), last.pieces.begin(), last.pieces.end());
    pieces = in_order.size();
    out.insert(out.end(), in_order.begin(), in_order.end());
    for (const mx::array& a : after.arrays()) {
      out.push_back(mx::stop_gradient(a));
    }
    return out;
  };
  std::pair<std::vector<mx::array>, std::vector<mx::array>> result;
  try {
    result = mx::value_and_grad(run, wanted)(primals);
  } catch (...) {
    nn::set_parameter_list(trainable, parameters);
    throw;
  }
  nn::set_parameter_list(trainable, parameters);

  const std::vector<mx::array>& values = result.first;
  const auto first_piece = values.begin() + (output >= 0 ? 3 : 2);
  const auto first_state = first_piece + static_cast<int64_t>(pieces);
  Gradients gradients{
      .loss = values[1], .values = {}, .state = models::State::from_arrays({first_state, values.end()})};
  const int vocab = model.embedding_weight().shape(0);
  auto next = result.second.begin();
  for (int i = 0; i < static_cast<int>(parameters.size()); ++i) {
    if (i != embeddings && i != output) {
      gradients.values.push_back(std::move(*next++));
    } else if (i != embeddings) {
      gradients.values.push_back(values[2]);
    } else if (i != output) {
      gradients.values.push_back(ops::embedding_gradient(batch.tokens, result.second.back(), vocab));
    } else {
      gradients.values.push_back(
          ops::embedding_gradient(batch.tokens, result.second.back(), vocab, values[2], values[2].dtype()));
    }
  }
  if (!ops::on_cpu(mx::to_stream({}))) {
    for (auto piece = first_piece; piece != first_state; ++piece) {
      gradients.order.push_back({*piece});
    }
    gradients.order.push_back(gradients.state.arrays());
    gradients.order.back().push_back(gradients.loss);
    add_from_last_layer(trainable, gradients.values, is_large(model, batch), backward_pieces, gradients.order);
  }
  return gradients;
}

std::pair<mx::array, models::State> loss_sum(const models::MambaLM& model, const Batch& batch,
                                             const models::State& state) {
  auto [hidden, after] = hidden_of(model, embedded(model, batch.tokens), batch, state, {});
  const mx::array losses =
      ops::linear_cross_entropy(hidden, model.output_weight(), batch.targets, {.ignore_index = kIgnored});
  return {mx::sum(losses), std::move(after)};
}

}  // namespace mamba::train
