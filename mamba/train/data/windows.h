// A dataset cut into windows of one length.
//
// Documents stand one behind the other and are cut wherever a window ends; the tokens behind the last whole window are
// left out. Examples are never cut but where they are longer than a window: whole ones are packed into windows, which
// are padded. Windows of documents come first.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "mamba/train/data/dataset.h"
#include "mamba/train/data/packing.h"

namespace mamba::train {

inline constexpr int32_t kIgnored = -100;  // a target that does not count

struct WindowStatistics {
  int64_t windows = 0;
  int64_t positions = 0;  // windows times length
  int64_t padding = 0;    // positions that hold nothing
  int64_t unused = 0;     // tokens behind the last whole window
  int64_t cut = 0;        // examples that lost their end
  int64_t dropped = 0;    // examples without a target in reach
};

// Immutable and thread-safe; copies share the dataset.
class Windows {
 public:
  // Throws UsageError when there is not one window, saying how many tokens there are and how many are needed.
  Windows(std::shared_ptr<const Dataset> dataset, int64_t length);

  int64_t count() const { return stream_windows_ + packing_.count(); }
  int64_t length() const { return length_; }
  // Whether windows start documents: else read() leaves `resets` alone.
  bool has_resets() const { return dataset_->has_documents(); }
  const Dataset& dataset() const { return *dataset_; }
  const WindowStatistics& statistics() const { return statistics_; }

  // Window `index`, `length()` values each: tokens; targets, one token further, kIgnored where the next token belongs
  // to another document or is not to be learnt; resets, 1 where a document starts. Returns how many targets count.
  int64_t read(int64_t index, int32_t* tokens, int32_t* targets, uint8_t* resets) const;

  // Windows [begin, end) show tokens of Dataset::varied(); the others do not. Nothing of a split is looked for.
  Dataset::Range varied() const;

  // Takes about `fraction` of the data out, at least one window: {training, held out}. Whole documents and examples,
  // drawn by `seed`, where some make up the fraction to a tenth; else the last tokens of the stream. Throws UsageError
  // when one side would be left without a window or these windows come from a split already.
  std::pair<Windows, Windows> split(double fraction, uint64_t seed) const;

 private:
  // Tokens [begin, begin + size) of the dataset's stream, that stand from `at` on here.
  struct Run {
    int64_t begin;
    int64_t size;
    int64_t at = 0;
  };

  Windows(std::shared_ptr<const Dataset> dataset, int64_t length, std::vector<Run> runs, std::vector<int64_t> examples,
          const char* name);

  using TwoRuns = std::pair<std::vector<Run>, std::vector<Run>>;
  TwoRuns split_stream(double fraction, uint64_t seed) const;
  int64_t packed_length(int64_t example) const;  // positions that it takes

  int64_t read_stream(int64_t index, int32_t* tokens, int32_t* targets, uint8_t* resets) const;
  int64_t read_packed(int64_t index, int32_t* tokens, int32_t* targets, uint8_t* resets) const;

  std::shared_ptr<const Dataset> dataset_;
  int64_t length_;
  bool whole_ = false;
  std::vector<Run> runs_;
  int64_t stream_windows_ = 0;
  std::vector<int64_t> example_ids_;  // of those that are packed
  Packing packing_;
  WindowStatistics statistics_;
};

}  // namespace mamba::train
