// The kernel of negative_exp. Private to this folder.
#pragma once

#include <cstdint>

namespace mamba::ops::negative_exp_detail {

void apply(const float* x, int64_t count, float* y);

}  // namespace mamba::ops::negative_exp_detail
