// adamw on GPUs. Private to this folder; arguments are checked by the caller. CPU streams serve tests
// (ops/gpu/kernel.h).
#pragma once

#include "mamba/ops/adamw/adamw.h"

namespace mamba::ops::adamw_detail {

AdamWOutputs gpu_update(const AdamWInputs& in, const AdamWOptions& options, const mlx::core::Stream& stream);

}  // namespace mamba::ops::adamw_detail
