#include "mamba/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "mamba/base/error.h"

namespace mamba::train {

ScheduleKind schedule_kind(std::string_view name) {
  if (name == "constant") {
    return ScheduleKind::kConstant;
  }
  if (name == "cosine") {
    return ScheduleKind::kCosine;
  }
  if (name == "wsd") {
    return ScheduleKind::kWsd;
  }
  throw UsageError(fmt::format("schedule \"{}\" is none of constant, cosine and wsd", name));
}

double Schedule::learning_rate(int64_t step) const {
  if (step < warmup) {
    return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  }
  const double lowest = floor * peak;
  switch (kind) {
    case ScheduleKind::kConstant:
      return peak;
    case ScheduleKind::kCosine: {
      const auto falling = static_cast<double>(std::max<int64_t>(1, steps - warmup));
      const double done = std::min(1.0, static_cast<double>(step - warmup) / falling);
      return lowest + (peak - lowest) * 0.5 * (1 + std::cos(std::numbers::pi * done));
    }
    case ScheduleKind::kWsd: {
      const double falling = std::max(1.0, std::round(decay_fraction * static_cast<double>(steps)));
      const double left = std::max(0.0, static_cast<double>(steps - step));
      return lowest + (peak - lowest) * std::min(1.0, left / falling);
    }
  }
  return peak;
}

}  // namespace mamba::train
