// How the learning rate goes over a run.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mamba::train {

enum class ScheduleKind {
  kConstant,  // the peak all along
  kCosine,    // half a cosine from the peak to the floor (Loshchilov and Hutter 2017, "SGDR", equation 5, one cycle)
  kWsd,       // warm-up, stable, decay: the peak, then a straight line to the floor (Hu et al. 2024, "MiniCPM")
};

// "constant", "cosine", "wsd". Throws UsageError for another name.
ScheduleKind schedule_kind(std::string_view name);

struct Schedule {
  ScheduleKind kind = ScheduleKind::kCosine;
  double peak = 1e-3;
  int64_t steps = 1;            // of the whole run
  int64_t warmup = 0;           // steps over which the rate rises in a straight line, peak / warmup at the first
  double floor = 0;             // part of the peak that is left at the end
  double decay_fraction = 0.2;  // wsd: part of the steps in which the rate falls

  // For step 0, 1, ... steps - 1; the last step's rate is just above the floor, which step `steps` would have.
  double learning_rate(int64_t step) const;
};

}  // namespace mamba::train
