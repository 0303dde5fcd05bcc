// The kernel of accumulate. Private to this folder.
#pragma once

#include <cstdint>

#include "mamba/ops/cpu/view.h"

namespace mamba::ops::accumulate_detail {

// out = sum + value; `out` may be `sum`, and has its element type.
struct Job {
  int64_t count;
  cpu::Numbers sum;
  cpu::Numbers value;
  void* out;
};

void add(const Job& job);

}  // namespace mamba::ops::accumulate_detail
