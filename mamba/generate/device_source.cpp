// What the host fetches of a step is each row's `chosen`, 8 bytes, and it does so after the next step has been sent
// off. Between the two lies all that the host does for a token. Nothing is sent with a step: the draws of several steps
// go to the device at once.

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <bit>
#include <deque>
#include <optional>
#include <random>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "mamba/generate/rows_state.h"
#include "mamba/generate/token_source.h"
#include "mamba/ops/choose_token/choose_token.h"
#include "mamba/ops/gpu/driver.h"
#include "mamba/ops/gpu/upload.h"

namespace mamba::generate {

namespace mx = mlx::core;

namespace {

class DeviceSource : public TokenSource {
 public:
  explicit DeviceSource(const models::MambaLM& model) : model_(model) {}

  void join(const models::State& state, const mx::array& logits, std::vector<NewRow> rows) override {
    std::vector<Row> added;
    std::vector<float> settings;
    std::vector<float> first_draws;
    for (const NewRow& row : rows) {
      const SamplingParams& p = row.sampling;
      added.push_back({std::mt19937_64(p.seed), {}, row.max_tokens, row.keeps_state});
      settings.insert(settings.end(),
                      {p.temperature, static_cast<float>(p.top_k), p.top_p, p.min_p, p.repetition_penalty});
      first_draws.push_back(added.back().draw());
    }
    const auto count = static_cast<int>(rows.size());
    Device joined{RowsState(state), logits, ops::gpu::uploaded(settings, {count, ops::kTokenSettings}, stream_),
                  seen_in(rows), std::nullopt};
    choose(joined, ops::gpu::uploaded(first_draws, {count}, stream_));
    device_ = rows_.empty() ? joined : both(*device_, joined);
    rows_.insert(rows_.end(), added.begin(), added.end());
    table_.reset();
    // Laying states beside one another belongs to reading the prompts.
    if (model_.steps_stacked(static_cast<int>(rows_.size()))) {
      device_->state.stacked();
    }
    mx::eval(arrays());
  }

  std::vector<ChosenToken> next() override {
    mx::array chosen = *device_->chosen;
    const auto rows = static_cast<int>(rows_.size());
    bool goes_on = false;
    for (Row& row : rows_) {
      --row.left;
      goes_on = goes_on || row.left > 0 || row.keeps_state;
    }
    if (goes_on) {
      step(chosen);
      choose(*device_, next_draws());
      mx::async_eval(arrays());
    }
    chosen.eval();  // waits for it alone
    const auto* numbers = chosen.data<int32_t>();
    if (rows > 1 && left_on_host_.insert(numbers).second) {  // MLX has done so with the 8 bytes of one row
      ops::gpu::leave_on_host(numbers, chosen.nbytes());
    }
    std::vector<ChosenToken> out;
    for (int row = 0; row < rows; ++row) {
      out.push_back({numbers[2 * row], std::bit_cast<float>(numbers[2 * row + 1])});
    }
    return out;
  }

  void keep(const std::vector<int>& rows) override {
    std::vector<Row> left;
    for (const int row : rows) {
      left.push_back(std::move(rows_[static_cast<size_t>(row)]));
    }
    rows_ = std::move(left);
    table_.reset();
    if (rows_.empty()) {
      device_.reset();
      return;
    }
    const mx::array index = ops::gpu::uploaded(rows, {static_cast<int>(rows.size())}, stream_);
    const auto of = [&](mx::array& a) { a = mx::take(a, index, 0); };
    device_->state.apart() = device_->state.apart().select(rows);
    of(device_->logits);
    of(device_->settings);
    for (std::optional<mx::array>* a : {&device_->seen, &device_->chosen}) {
      if (*a) {
        of(**a);
      }
    }
  }

  std::pair<models::State, mx::array> state_of(int row) override {
    const int vocab = model_.config().vocab_size;
    return {device_->state.apart().select({row}),
            mx::reshape(mx::slice(device_->logits, {row, 0}, {row + 1, vocab}), {vocab})};
  }

 private:
  struct Row {
    std::mt19937_64 random;
    std::deque<float> sent;  // draws that lie in the table
    int left;                // tokens that may still come
    bool keeps_state;

    // 24 random bits: the same number on every platform, and never 1.
    float draw() { return static_cast<float>(random() >> 40) * 0x1.0p-24f; }
  };

  // What lies on the device of the rows, after the tokens that next() has given.
  struct Device {
    RowsState state;
    mx::array logits;                 // (rows, vocab) float32
    mx::array settings;               // (rows, kTokenSettings) float32
    std::optional<mx::array> seen;    // (rows, vocab) uint8
    std::optional<mx::array> chosen;  // (rows, 2) int32: what next() gives
  };

  // None where no row has a penalty.
  std::optional<mx::array> seen_in(const std::vector<NewRow>& rows) const {
    const bool wanted = std::any_of(rows.begin(), rows.end(),
                                    [](const NewRow& row) { return row.sampling.repetition_penalty != 1.0f; });
    if (!wanted) {
      return std::nullopt;
    }
    const int vocab = model_.config().vocab_size;
    std::vector<uint8_t> seen(rows.size() * static_cast<size_t>(vocab), 0);
    for (size_t row = 0; row < rows.size(); ++row) {
      for (const int32_t token : rows[row].history) {
        if (token >= 0 && token < vocab) {
          seen[row * static_cast<size_t>(vocab) + static_cast<size_t>(token)] = 1;
        }
      }
    }
    return mx::array(seen.begin(), {static_cast<int>(rows.size()), vocab}, mx::uint8);
  }

  // `chosen` (rows, 2) int32, of which the first column are the tokens.
  void step(const mx::array& chosen) {
    const int rows = chosen.shape(0);
    if (model_.steps_stacked(rows)) {
      std::tie(device_->logits, device_->state.stacked()) = model_.step(chosen, device_->state.stacked());
      return;
    }
    const mx::array tokens = mx::reshape(mx::slice(chosen, {0, 0}, {rows, 1}), {rows});
    std::tie(device_->logits, device_->state.apart()) = model_.step(tokens, device_->state.apart());
  }

  static Device both(Device a, Device b) {
    const auto joined = [](const mx::array& x, const mx::array& y) { return mx::concatenate({x, y}, 0); };
    Device out{RowsState(models::State::concatenate({a.state.apart(), b.state.apart()})), joined(a.logits, b.logits),
               joined(a.settings, b.settings), std::nullopt, joined(*a.chosen, *b.chosen)};
    if (a.seen || b.seen) {
      const auto or_none = [](const Device& d) { return d.seen ? *d.seen : mx::zeros(d.logits.shape(), mx::uint8); };
      out.seen = joined(or_none(a), or_none(b));
    }
    return out;
  }

  static void choose(Device& device, const mx::array& draws) {
    ops::ChooseTokenOutputs out =
        ops::choose_token({.logits = device.logits, .settings = device.settings, .draws = draws, .seen = device.seen});
    device.chosen = std::move(out.chosen);
    device.seen = std::move(out.seen);
  }

  // (rows,): a column of the table, which is filled anew when it ends or other rows are there.
  mx::array next_draws() {
    const auto rows = static_cast<int>(rows_.size());
    if (!table_ || column_ == kTable) {
      std::vector<float> numbers;
      for (Row& row : rows_) {
        while (row.sent.size() < kTable) {
          row.sent.push_back(row.draw());
        }
        numbers.insert(numbers.end(), row.sent.begin(), row.sent.end());
      }
      table_ = ops::gpu::uploaded(numbers, {rows, kTable}, stream_);
      column_ = 0;
    }
    for (Row& row : rows_) {
      row.sent.pop_front();
    }
    const int at = column_++;
    return mx::reshape(mx::slice(*table_, {0, at}, {rows, at + 1}), {rows});
  }

  std::vector<mx::array> arrays() const {
    std::vector<mx::array> out = device_->state.arrays();
    out.push_back(*device_->chosen);
    out.push_back(device_->logits);
    if (device_->seen) {
      out.push_back(*device_->seen);
    }
    return out;
  }

  static constexpr int kTable = 64;

  const models::MambaLM& model_;
  const mx::Stream stream_ = mx::to_stream({});
  std::vector<Row> rows_;
  std::optional<Device> device_;
  std::optional<mx::array> table_;  // (rows, kTable) float32
  int column_ = 0;
  std::unordered_set<const void*> left_on_host_;  // where tokens have lain: MLX uses such memory again
};

}  // namespace

std::unique_ptr<TokenSource> sample_on_device(const models::MambaLM& model) {
  return std::make_unique<DeviceSource>(model);
}

}  // namespace mamba::generate
