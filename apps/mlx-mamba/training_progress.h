// How a run shows itself on standard output: a line that changes on a terminal, else a line now and then.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "mamba/train/trainer.h"

namespace mamba::cli {

class TrainingProgress {
 public:
  TrainingProgress(int64_t first_step, int64_t steps);

  void show(const train::StepReport& report);
  void end();  // leaves the last line standing

 private:
  std::string line(const train::StepReport& report) const;

  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::seconds kLineInterval{5};

  int64_t first_step_;
  int64_t steps_;
  bool terminal_;
  bool open_ = false;  // a line that will be replaced stands on the terminal
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_line_;
  double smoothed_speed_ = 0;
};

}  // namespace mamba::cli
