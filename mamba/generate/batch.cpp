// The rows of `source_` belong to `active_`, in order; a step takes in waiting requests (their prompts are worked on
// first), gets one token for each row and lets those that are done go. Since a row's numbers depend on its own tokens
// alone (ops/linear/linear.h), company changes nothing.

#include "mamba/generate/batch.h"

#include <mlx/device.h>
#include <mlx/ops.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "mamba/base/error.h"
#include "mamba/generate/stop_matcher.h"
#include "mamba/ops/gpu/upload.h"
#include "mamba/text/stream_decoder.h"

namespace mamba::generate {

namespace mx = mlx::core;

namespace {

constexpr const char* kCancelled = "cancelled";

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// One request on its way.
struct Sequence {
  Sequence(size_t index_, Request request_, const text::Tokenizer* tokenizer)
      : index(index_), request(std::move(request_)), stops(request.stop) {
    if (request.from) {
      history = std::move(request.from->history);
      request.from.reset();
    }
    history.insert(history.end(), request.prompt.begin(), request.prompt.end());
    if (tokenizer != nullptr) {
      decoder.emplace(*tokenizer);
    }
  }

  size_t index;
  Request request;
  StopMatcher stops;
  std::optional<text::StreamDecoder> decoder;
  std::vector<int32_t> history;
  Result result;
  bool cancelled = false;
};

struct Waiting {
  size_t index;
  Request request;
};

}  // namespace

class Batch::Impl {
 public:
  Impl(const models::MambaLM& model, const text::Tokenizer* tokenizer, Callbacks callbacks, int max_sequences,
       const MakeTokenSource& make_source)
      : model_(model), tokenizer_(tokenizer), callbacks_(std::move(callbacks)), max_sequences_(max_sequences) {
    source_ = make_source ? make_source(model) : on_gpu_ ? sample_on_device(model) : sample_on_host(model);
  }

  size_t add(Request request) {
    check_request(model_, tokenizer_, request);
    waiting_.push_back({next_index_, std::move(request)});
    return next_index_++;
  }

  void cancel(size_t index) {
    for (Sequence& sequence : active_) {
      sequence.cancelled = sequence.cancelled || sequence.index == index;
    }
    const auto found =
        std::find_if(waiting_.begin(), waiting_.end(), [&](const Waiting& w) { return w.index == index; });
    if (found != waiting_.end()) {
      waiting_.erase(found);
      cancelled_.push_back(index);
    }
  }

  // Takes in waiting requests while there is room, a group of prompts at a time.
  void take_in() {
    const auto start = std::chrono::steady_clock::now();
    while (!waiting_.empty() && active_.size() < static_cast<size_t>(max_sequences_)) {
      take_in_group(group_size(static_cast<size_t>(max_sequences_) - active_.size()));
    }
    timings.prompt_seconds += seconds_since(start);
  }

  bool step() {
    report_cancelled();
    take_in();
    const auto start = std::chrono::steady_clock::now();
    retire();
    accept_tokens();
    retire();
    timings.generation_seconds += seconds_since(start);
    return !active_.empty() || !waiting_.empty() || !cancelled_.empty();
  }

  size_t running() const { return active_.size(); }
  size_t waiting() const { return waiting_.size(); }

  Timings timings;

 private:
  int vocab() const { return model_.config().vocab_size; }

  // How many of those that wait are worked on together, at most `room`: few when one of them is long, since a chunk's
  // activations grow with both. On GPUs more, where few tokens cost as much as some thousands.
  size_t group_size(size_t room) const {
    const auto chunk = static_cast<size_t>(on_gpu_ ? models::MambaLM::kGpuChunk : models::MambaLM::kChunk);
    const size_t most_tokens = on_gpu_ ? 4 * chunk : chunk;
    const size_t most = std::min({room, waiting_.size(), on_gpu_ ? size_t{64} : size_t{16}});
    size_t longest = 1;
    for (size_t count = 0; count < most; ++count) {
      longest = std::max(longest, std::min(waiting_[count].request.prompt.size(), chunk));
      if (count > 0 && (count + 1) * longest > most_tokens) {
        return count;
      }
    }
    return most;
  }

  void take_in_group(size_t count) {
    std::vector<int> lengths;
    for (size_t i = 0; i < count; ++i) {
      const Request& request = waiting_[i].request;
      lengths.push_back(static_cast<int>(request.prompt.size()));
      timings.prompt_tokens += lengths.back();
    }
    models::State state = first_states(count);
    const auto rows = static_cast<int>(count);
    const int longest = *std::max_element(lengths.begin(), lengths.end());
    mx::array logits = mx::zeros({rows, vocab()});
    if (longest > 0) {
      std::vector<int32_t> padded(count * static_cast<size_t>(longest), 0);
      for (size_t i = 0; i < count; ++i) {
        const std::vector<int32_t>& prompt = waiting_[i].request.prompt;
        std::copy(prompt.begin(), prompt.end(), padded.begin() + static_cast<int64_t>(i) * longest);
      }
      models::ForwardOptions options;
      if (std::any_of(lengths.begin(), lengths.end(), [&](int length) { return length < longest; })) {
        options.spans = models::right_padded(lengths);
      }
      logits = model_.prefill(ops::gpu::uploaded(padded, {rows, longest}, mx::to_stream({})), state, options);
    }
    logits = with_saved_logits(logits, lengths);
    std::vector<NewRow> joining;
    for (size_t i = 0; i < count; ++i) {
      const Sequence& sequence =
          active_.emplace_back(waiting_.front().index, std::move(waiting_.front().request), tokenizer_);
      waiting_.pop_front();
      joining.push_back(
          {sequence.request.sampling, sequence.history, sequence.request.max_tokens, sequence.request.keep_state});
    }
    source_->join(state, logits, std::move(joining));
  }

  // Of the first `count` that wait. Those that begin anew, usually all, share arrays: a copy for each would be a launch
  // on GPUs, for each layer.
  models::State first_states(size_t count) const {
    std::vector<models::State> states;
    for (size_t i = 0; i < count;) {
      const auto& from = waiting_[i].request.from;
      size_t end = i + 1;
      while (!from && end < count && !waiting_[end].request.from) {
        ++end;
      }
      states.push_back(from ? from->state : model_.initial_state(static_cast<int>(end - i)));
      i = end;
    }
    return models::State::concatenate(states);
  }

  // A session that goes on without new tokens starts from the logits it was saved with.
  mx::array with_saved_logits(const mx::array& logits, const std::vector<int>& lengths) const {
    if (std::all_of(lengths.begin(), lengths.end(), [](int length) { return length > 0; })) {
      return logits;
    }
    std::vector<mx::array> rows;
    for (size_t i = 0; i < lengths.size(); ++i) {
      const auto row = static_cast<int>(i);
      rows.push_back(lengths[i] > 0 ? mx::slice(logits, {row, 0}, {row + 1, vocab()})
                                    : mx::reshape(waiting_[i].request.from->next_logits, {1, vocab()}));
    }
    return mx::concatenate(rows, 0);
  }

  void accept_tokens() {
    if (active_.empty()) {
      return;
    }
    const std::vector<ChosenToken> chosen = source_->next();
    for (size_t row = 0; row < active_.size(); ++row) {
      accept(active_[row], chosen[row]);
    }
  }

  void accept(Sequence& sequence, const ChosenToken& chosen) {
    Result& result = sequence.result;
    const int32_t token = chosen.id;
    result.tokens.push_back(token);
    result.logprobs.push_back(chosen.logprob);
    sequence.history.push_back(token);
    ++timings.generated_tokens;
    if (callbacks_.on_token) {
      callbacks_.on_token(sequence.index, token, chosen.logprob);
    }
    if (sequence.decoder && !tokenizer_->is_special(token)) {
      show(sequence, sequence.stops.push(sequence.decoder->push(token)));
    }
    const auto& eos = model_.config().eos_token_ids;
    if (sequence.stops.found() ||
        (!sequence.request.ignore_eos && std::find(eos.begin(), eos.end(), token) != eos.end())) {
      result.finish_reason = "stop";
    }
  }

  void show(Sequence& sequence, const std::string& piece) {
    sequence.result.text += piece;
    if (callbacks_.on_text && !piece.empty()) {
      callbacks_.on_text(sequence.index, piece);
    }
  }

  // Lets go of sequences that are done, and of their rows.
  void retire() {
    for (Sequence& sequence : active_) {
      std::string& reason = sequence.result.finish_reason;
      const bool is_full = sequence.result.tokens.size() >= static_cast<size_t>(sequence.request.max_tokens);
      if (reason.empty() && (sequence.cancelled || is_full)) {
        reason = is_full ? "length" : kCancelled;
      }
    }
    std::vector<int> rows;
    std::vector<Sequence> left;
    for (size_t row = 0; row < active_.size(); ++row) {
      Sequence& sequence = active_[row];
      if (sequence.result.finish_reason.empty()) {
        rows.push_back(static_cast<int>(row));
        left.push_back(std::move(sequence));
      } else {
        complete(sequence, static_cast<int>(row));
      }
    }
    if (left.size() < active_.size()) {
      source_->keep(rows);
    }
    active_ = std::move(left);
  }

  void complete(Sequence& sequence, int row) {
    if (sequence.decoder) {
      show(sequence, sequence.stops.push(sequence.decoder->finish()));
      show(sequence, sequence.stops.finish());
      if (sequence.stops.found()) {
        sequence.result.finish_reason = "stop";
      }
    }
    if (sequence.request.keep_state) {
      keep_session(sequence, row);
    }
    if (callbacks_.on_result) {
      callbacks_.on_result(sequence.index, sequence.result);
    }
  }

  // Of requests that never ran.
  void report_cancelled() {
    for (const size_t index : std::exchange(cancelled_, {})) {
      Result result;
      result.finish_reason = kCancelled;
      if (callbacks_.on_result) {
        callbacks_.on_result(index, result);
      }
    }
  }

  void keep_session(Sequence& sequence, int row) {
    auto [state, logits] = source_->state_of(row);
    sequence.result.session = SessionState{std::move(state), mx::contiguous(logits), sequence.history};
  }

  const models::MambaLM& model_;
  const bool on_gpu_ = mx::default_device() == mx::Device::gpu;
  const text::Tokenizer* tokenizer_;
  Callbacks callbacks_;
  int max_sequences_;

  size_t next_index_ = 0;
  std::deque<Waiting> waiting_;
  std::vector<size_t> cancelled_;  // while they waited
  std::vector<Sequence> active_;
  std::unique_ptr<TokenSource> source_;
};

void check_request(const models::MambaLM& model, const text::Tokenizer* tokenizer, const Request& request) {
  request.sampling.validate();
  if (request.max_tokens < 0) {
    throw UsageError(fmt::format("max-tokens must be 0 or more but is {}", request.max_tokens));
  }
  if (!request.from || !request.prompt.empty()) {
    model.check_tokens(request.prompt);
  }
  for (const std::string& stop : request.stop) {
    if (stop.empty()) {
      throw UsageError("a stop string is empty: it would end the text before it begins");
    }
    if (tokenizer == nullptr) {
      throw UsageError("stop strings need a tokenizer, and this model has none");
    }
  }
  if (request.from) {
    request.from->state.check_fits(model.config());
  }
}

Batch::Batch(const models::MambaLM& model, const text::Tokenizer* tokenizer, Callbacks callbacks, int max_sequences,
             const MakeTokenSource& make_source)
    : impl_(std::make_unique<Impl>(model, tokenizer, std::move(callbacks), max_sequences, make_source)) {
  check(max_sequences >= 1, "[Batch] max_sequences must be at least 1 but is {}", max_sequences);
}

Batch::~Batch() = default;
Batch::Batch(Batch&&) noexcept = default;
Batch& Batch::operator=(Batch&&) noexcept = default;

size_t Batch::add(Request request) {
  return impl_->add(std::move(request));
}

void Batch::cancel(size_t index) {
  impl_->cancel(index);
}

void Batch::take_in() {
  impl_->take_in();
}

bool Batch::step() {
  return impl_->step();
}

size_t Batch::running() const {
  return impl_->running();
}

size_t Batch::waiting() const {
  return impl_->waiting();
}

const Timings& Batch::timings() const {
  return impl_->timings;
}

}  // namespace mamba::generate
