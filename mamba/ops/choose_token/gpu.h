// choose_token on GPUs: the launch of gpu_choose.h. Private to this folder; arguments are checked by the caller. CPU
// streams serve tests (ops/gpu/kernel.h).
#pragma once

#include <mlx/stream.h>

#include "mamba/ops/choose_token/choose_token.h"

namespace mamba::ops::token {

// `threads` of a group: kDrawOrder but in tests.
ChooseTokenOutputs gpu_choose(const ChooseTokenInputs& in, const mlx::core::Stream& stream, int threads = kDrawOrder);

}  // namespace mamba::ops::token
