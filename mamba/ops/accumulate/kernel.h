// The kernel of accumulate. Private to this folder.
#pragma once

#include <cstdint>

#include "mamba/ops/cpu/view.h"

namespace mamba::ops::accumulate_detail {

// out = sum + value; `out` may be `sum`.
struct Job {
  int64_t count;
  const float* sum;
  cpu::Numbers value;
  float* out;
};

void add(const Job& job);

}  // namespace mamba::ops::accumulate_detail
