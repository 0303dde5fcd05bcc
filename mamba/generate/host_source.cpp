#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <iterator>
#include <optional>
#include <span>
#include <tuple>

#include "mamba/base/threads.h"
#include "mamba/generate/rows_state.h"
#include "mamba/generate/token_source.h"

namespace mamba::generate {

namespace mx = mlx::core;

namespace {

class HostSource : public TokenSource {
 public:
  explicit HostSource(const models::MambaLM& model) : model_(model) {}

  void join(const models::State& state, const mx::array& logits, std::vector<NewRow> rows) override {
    read_last();
    state_ = RowsState(rows_.empty() ? state : models::State::concatenate({state_->apart(), state}));
    logits_ = rows_.empty() ? logits : mx::concatenate({*logits_, logits}, 0);
    for (NewRow& row : rows) {
      rows_.push_back({Sampler(row.sampling), std::move(row.history), false});
    }
    evaluate();
  }

  std::vector<ChosenToken> next() override {
    read_last();
    std::vector<ChosenToken> chosen(rows_.size());
    const auto width = static_cast<size_t>(model_.config().vocab_size);
    // Asked for once: on a GPU this fetches the numbers, which threads may not do at the same time.
    const float* const numbers = logits_->data<float>();
    parallel_for(static_cast<int64_t>(rows_.size()), 1, [&](int64_t begin, int64_t end) {
      for (auto row = static_cast<size_t>(begin); row < static_cast<size_t>(end); ++row) {
        const std::span<const float> logits(numbers + row * width, width);
        const int32_t token = rows_[row].sampler.sample(logits, rows_[row].history);
        chosen[row] = {token, log_probability(logits, token)};
      }
    });
    for (size_t row = 0; row < rows_.size(); ++row) {
      rows_[row].history.push_back(chosen[row].id);
      rows_[row].unread = true;
    }
    return chosen;
  }

  void keep(const std::vector<int>& rows) override {
    std::vector<Row> left;
    for (const int row : rows) {
      left.push_back(std::move(rows_[static_cast<size_t>(row)]));
    }
    rows_ = std::move(left);
    if (rows_.empty()) {
      state_.reset();
      logits_.reset();
      return;
    }
    state_ = RowsState(state_->apart().select(rows));
    logits_ = mx::contiguous(mx::take(*logits_, mx::array(rows.begin(), {static_cast<int>(rows.size())}), 0));
    mx::eval(*logits_);
  }

  std::pair<models::State, mx::array> state_of(int row) override {
    models::State state = rows_.size() == 1 ? state_->apart() : state_->apart().select({row});
    mx::array logits = mx::slice(*logits_, {row, 0}, {row + 1, model_.config().vocab_size});
    // Chosen, but the model has not read it.
    if (const Row& own = rows_[static_cast<size_t>(row)]; own.unread) {
      logits = model_.prefill(mx::array({own.history.back()}, {1, 1}, mx::int32), state);
    }
    return {std::move(state), mx::reshape(logits, {model_.config().vocab_size})};
  }

 private:
  struct Row {
    Sampler sampler;
    std::vector<int32_t> history;
    bool unread;  // the last token
  };

  // Rows come to have an unread token together, and none once it is read.
  void read_last() {
    if (rows_.empty() || !rows_.front().unread) {
      return;
    }
    std::vector<int32_t> tokens;
    for (Row& row : rows_) {
      tokens.push_back(row.history.back());
      row.unread = false;
    }
    if (model_.steps_at_once()) {
      logits_ = model_.step_at_once(tokens, state_->stacked());
      return;
    }
    const auto rows = static_cast<int>(tokens.size());
    const mx::array ids(tokens.begin(), {rows}, mx::int32);
    if (model_.steps_stacked(rows)) {
      std::tie(*logits_, state_->stacked()) = model_.step(ids, state_->stacked());
    } else {
      std::tie(*logits_, state_->apart()) = model_.step(ids, state_->apart());
    }
    evaluate();
  }

  void evaluate() {
    std::vector<mx::array> arrays = state_->arrays();
    logits_ = mx::contiguous(*logits_);
    arrays.push_back(*logits_);
    mx::eval(arrays);
  }

  const models::MambaLM& model_;
  std::vector<Row> rows_;
  std::optional<RowsState> state_;
  std::optional<mx::array> logits_;  // (rows, vocab) float32
};

}  // namespace

std::unique_ptr<TokenSource> sample_on_host(const models::MambaLM& model) {
  return std::make_unique<HostSource>(model);
}

}  // namespace mamba::generate
