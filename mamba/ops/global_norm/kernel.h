// The kernel of global_norm. Private to this folder.
#pragma once

#include <cstdint>

#include "mamba/ops/cpu/view.h"

namespace mamba::ops::global_norm_detail {

// Numbers that are summed together by one thread.
constexpr int64_t kBlock = 1 << 15;

// The sum of squares of `count` numbers, at most kBlock.
double sum_of_squares(const cpu::Numbers& numbers, int64_t count);

}  // namespace mamba::ops::global_norm_detail
