#include "mamba/train/data/windows.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "mamba/base/error.h"
#include "mamba/base/mix_bits.h"
#include "mamba/train/data/permutation.h"

namespace mamba::train {
namespace {

std::vector<int64_t> all_of(int64_t count) {
  std::vector<int64_t> out(static_cast<size_t>(count));
  std::iota(out.begin(), out.end(), 0);
  return out;
}

// {the others, `count` of [0, total) drawn by `seed`}, both ascending.
std::pair<std::vector<int64_t>, std::vector<int64_t>> draw(int64_t total, int64_t count, uint64_t seed) {
  const Permutation permutation(total, seed, 0);
  std::vector<bool> drawn(static_cast<size_t>(total), false);
  for (int64_t i = 0; i < count; ++i) {
    drawn[static_cast<size_t>(permutation(i))] = true;
  }
  std::pair<std::vector<int64_t>, std::vector<int64_t>> out;
  for (int64_t i = 0; i < total; ++i) {
    (drawn[static_cast<size_t>(i)] ? out.second : out.first).push_back(i);
  }
  return out;
}

}  // namespace

Windows::Windows(std::shared_ptr<const Dataset> dataset, int64_t length)
    : Windows(dataset, length, {Run{0, dataset->stream().size()}}, all_of(dataset->examples().count()), "the data") {
  whole_ = true;
}

Windows::Windows(std::shared_ptr<const Dataset> dataset, int64_t length, std::vector<Run> runs,
                 std::vector<int64_t> examples, const char* name)
    : dataset_(std::move(dataset)), length_(length), runs_(std::move(runs)) {
  if (length_ < 1 || length_ > INT32_MAX) {
    throw UsageError(fmt::format("a window must have 1 to {} tokens but length {} was asked for", INT32_MAX, length_));
  }
  int64_t size = 0;
  for (Run& run : runs_) {
    run.at = size;
    size += run.size;
  }
  stream_windows_ = size > 0 ? (size - 1) / length_ : 0;
  statistics_.unused = size - stream_windows_ * length_;

  std::vector<int64_t> lengths;
  for (const int64_t example : examples) {
    const std::span<const uint8_t> mask = dataset_->examples().mask(example);
    const int64_t positions = packed_length(example);
    const auto first = mask.begin() + (mask.empty() ? 0 : 1);
    if (positions < 1 || std::find(first, first + positions, 1) == first + positions) {
      ++statistics_.dropped;
      continue;
    }
    statistics_.cut += positions + 1 < dataset_->examples().length(example) ? 1 : 0;
    statistics_.padding -= positions;
    example_ids_.push_back(example);
    lengths.push_back(positions);
  }
  packing_ = Packing(lengths, length_);
  statistics_.padding += packing_.count() * length_;
  statistics_.windows = count();
  statistics_.positions = count() * length_;
  if (count() > 0) {
    return;
  }
  if (!examples.empty()) {
    throw UsageError(fmt::format("none of {} examples has a token to learn among its first {}: use longer windows",
                                 examples.size(), length_ + 1));
  }
  throw UsageError(fmt::format("{} has {} tokens but one window of {} needs {}: give more data or a shorter window",
                               name, size, length_, length_ + 1));
}

int64_t Windows::packed_length(int64_t example) const {
  return std::min(dataset_->examples().length(example) - 1, length_);
}

int64_t Windows::read(int64_t index, int32_t* tokens, int32_t* targets, uint8_t* resets) const {
  check(index >= 0 && index < count(), "[windows] there is no window {} of {}", index, count());
  return index < stream_windows_ ? read_stream(index, tokens, targets, resets)
                                 : read_packed(index - stream_windows_, tokens, targets, resets);
}

Dataset::Range Windows::varied() const {
  const Dataset::Range tokens = dataset_->varied();
  if (!whole_ || tokens.begin == tokens.end) {
    return {};
  }
  // A window's last target is one token further.
  return {(tokens.begin - 1) / length_, std::min((tokens.end + length_ - 1) / length_, stream_windows_)};
}

int64_t Windows::read_stream(int64_t index, int32_t* tokens, int32_t* targets, uint8_t* resets) const {
  const TokenStream& stream = dataset_->stream();
  const int64_t first = index * length_;
  const int64_t last = first + length_;  // the token that is a target only
  auto run = std::upper_bound(runs_.begin(), runs_.end(), first,
                              [](int64_t value, const Run& candidate) { return value < candidate.at; }) -
             1;
  if (has_resets()) {
    std::fill_n(resets, length_, uint8_t{0});
  }
  int64_t ignored = 0;
  std::vector<int64_t> starts;  // of documents, counted from the window's first token
  for (int64_t at = first; at <= last; ++run) {
    const int64_t begin = run->begin + (at - run->at);
    const int64_t count = std::min(last + 1, run->at + run->size) - at;
    const int64_t inputs = std::min(count, last - at);
    stream.copy(begin, inputs, tokens + (at - first));
    // Token i is target i - 1.
    const int64_t skip = at == first ? 1 : 0;
    stream.copy(begin + skip, count - skip, targets + (at - first + skip - 1));
    if (has_resets()) {
      int64_t document = stream.first_document_from(begin);
      for (int64_t start = stream.document_start(document); start < begin + count;
           start = stream.document_start(++document)) {
        starts.push_back(start - begin + (at - first));
      }
    }
    at += count;
  }
  for (const int64_t start : starts) {
    if (start < length_) {
      resets[start] = 1;
    }
    if (start > 0) {
      targets[start - 1] = kIgnored;
      ++ignored;
    }
  }
  return length_ - ignored;
}

int64_t Windows::read_packed(int64_t index, int32_t* tokens, int32_t* targets, uint8_t* resets) const {
  const Examples& examples = dataset_->examples();
  std::fill_n(tokens, length_, 0);
  std::fill_n(targets, length_, kIgnored);
  std::fill_n(resets, length_, uint8_t{0});
  std::vector<int32_t> ids;
  int64_t at = 0;
  int64_t target_count = 0;
  for (const int64_t item : packing_.items(index)) {
    const int64_t example = example_ids_[static_cast<size_t>(item)];
    const int64_t positions = packed_length(example);
    ids.resize(static_cast<size_t>(positions) + 1);
    examples.copy(example, positions + 1, ids.data());
    const std::span<const uint8_t> mask = examples.mask(example);
    std::copy_n(ids.begin(), positions, tokens + at);
    resets[at] = 1;
    for (int64_t i = 0; i < positions; ++i) {
      if (mask[static_cast<size_t>(i) + 1] != 0) {
        targets[at + i] = ids[static_cast<size_t>(i) + 1];
        ++target_count;
      }
    }
    at += positions;
  }
  return target_count;
}

Windows::TwoRuns Windows::split_stream(double fraction, uint64_t seed) const {
  const TokenStream& stream = dataset_->stream();
  const int64_t size = stream.size();
  const int64_t wanted =
      std::max(static_cast<int64_t>(std::llround(fraction * static_cast<double>(size))), length_ + 1);
  if (has_resets() && stream.document_count() > 1) {
    const int64_t documents = stream.document_count();
    const Permutation permutation(documents, seed, 1);
    std::vector<int64_t> held;
    int64_t held_size = 0;
    for (int64_t i = 0; i < documents && held_size < wanted; ++i) {
      const int64_t document = permutation(i);
      const int64_t length = stream.document_start(document + 1) - stream.document_start(document);
      if (held_size + length <= wanted + wanted / 10) {
        held.push_back(document);
        held_size += length;
      }
    }
    if (held_size >= std::max(wanted - wanted / 10, length_ + 1)) {
      std::sort(held.begin(), held.end());
      TwoRuns out;
      const auto append = [&](std::vector<Run>& runs, int64_t begin, int64_t end) {
        if (!runs.empty() && runs.back().begin + runs.back().size == begin) {
          runs.back().size += end - begin;
        } else if (begin < end) {
          runs.push_back({begin, end - begin});
        }
      };
      int64_t done = 0;
      for (const int64_t document : held) {
        append(out.first, done, stream.document_start(document));
        done = stream.document_start(document + 1);
        append(out.second, stream.document_start(document), done);
      }
      append(out.first, done, size);
      return out;
    }
  }
  const int64_t tail = std::min(wanted, size);
  return {{Run{0, size - tail}}, {Run{size - tail, tail}}};
}

std::pair<Windows, Windows> Windows::split(double fraction, uint64_t seed) const {
  if (!(fraction > 0 && fraction < 1)) {
    throw UsageError(fmt::format("the fraction to hold out must lie between 0 and 1 but is {}", fraction));
  }
  if (!whole_) {
    throw UsageError("these windows come from a split: split the windows of the whole dataset");
  }
  TwoRuns runs{runs_, {}};
  if (stream_windows_ > 0) {
    runs = split_stream(fraction, seed);
  }
  const int64_t total = dataset_->examples().count();
  int64_t held = 0;
  if (total > 1) {
    held = std::clamp<int64_t>(std::llround(fraction * static_cast<double>(total)), 1, total - 1);
  } else if (total == 1 && stream_windows_ == 0) {
    throw UsageError("there is one example alone: nothing can be held out");
  }
  auto [rest, drawn] = draw(total, held, mix_bits(seed));
  Windows training(dataset_, length_, std::move(runs.first), std::move(rest), "what is left after the held-out part");
  Windows held_out(dataset_, length_, std::move(runs.second), std::move(drawn), "the held-out part");
  return {std::move(training), std::move(held_out)};
}

}  // namespace mamba::train
