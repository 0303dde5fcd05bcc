#include "apps/mlx-mamba/training_progress.h"

#include <unistd.h>

#include "apps/mlx-mamba/console.h"
#include "mamba/base/error.h"

namespace mamba::cli {

namespace {

std::string duration(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole < 60) {
    return fmt::format("{}s", whole);
  }
  if (whole < 3600) {
    return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  }
  return fmt::format("{}h{:02}m", whole / 3600, whole / 60 % 60);
}

}  // namespace

TrainingProgress::TrainingProgress(int64_t first_step, int64_t steps)
    : first_step_(first_step), steps_(steps), terminal_(::isatty(STDOUT_FILENO) == 1) {}

std::string TrainingProgress::line(const train::StepReport& report) const {
  const int64_t done = report.step + 1;
  const double elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
  const double left = elapsed / static_cast<double>(done - first_step_) * static_cast<double>(steps_ - done);
  std::string out = fmt::format("step {}/{}  loss {:.4f}", done, steps_, report.loss);
  if (report.eval_loss) {
    out += fmt::format("  held-out loss {:.4f}", *report.eval_loss);
  }
  return out + fmt::format("  {:.0f} tokens/s  {} left", smoothed_speed_, duration(left));
}

void TrainingProgress::show(const train::StepReport& report) {
  smoothed_speed_ =
      smoothed_speed_ == 0 ? report.tokens_per_second : 0.8 * smoothed_speed_ + 0.2 * report.tokens_per_second;
  const auto now = Clock::now();
  const bool lasting = report.eval_loss.has_value() || report.step + 1 == steps_;
  if (terminal_) {
    put((open_ ? "\r\x1b[K" : "") + line(report) + (lasting ? "\n" : ""));
    open_ = !lasting;
  } else if (lasting || report.step == first_step_ || now - last_line_ >= kLineInterval) {
    last_line_ = now;
    put(line(report) + "\n");
  }
}

void TrainingProgress::end() {
  if (open_) {
    put("\n");
    open_ = false;
  }
}

}  // namespace mamba::cli
