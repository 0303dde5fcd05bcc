// adamw on GPUs. Private to this folder; arguments are checked by the caller. CPU streams serve tests
// (ops/gpu/kernel.h).
#pragma once

#include <vector>

#include "mamba/ops/adamw/adamw.h"

namespace mamba::ops::adamw_detail {

std::vector<AdamWOutputs> gpu_update(const std::vector<AdamWInputs>& in, const std::vector<AdamWOptions>& options,
                                     const mlx::core::Stream& stream);

}  // namespace mamba::ops::adamw_detail
