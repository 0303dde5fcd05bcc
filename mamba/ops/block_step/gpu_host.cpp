#include "mamba/ops/block_step/gpu_host.h"

#include <mlx/types/half_types.h>

#include "mamba/base/error.h"
#include "mamba/ops/gpu/dialect_host.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::ops::gpu::dialect {
namespace {

namespace mx = mlx::core;
using host::Launch;

template <typename T, int kThreads>
void mixer(const Launch& launch) {
  constexpr int kTaps = 4;
  constexpr int kPer = 4;
  MAMBA_HOST_IN(xz);
  MAMBA_HOST_IN(conv_weight);
  MAMBA_HOST_IN(conv_bias);
  MAMBA_HOST_IN(x_proj);
  MAMBA_HOST_IN(dt_proj);
  MAMBA_HOST_IN(dt_bias);
  MAMBA_HOST_IN(A);
  MAMBA_HOST_IN(D);
  MAMBA_HOST_IN(conv);
  MAMBA_HOST_IN(ssm);
  MAMBA_HOST_OUT(y);
  MAMBA_HOST_OUT(conv_after);
  MAMBA_HOST_OUT(ssm_after);
  MAMBA_HOST_OUT(u);
  MAMBA_HOST_OUT(dt_B_C);
  MAMBA_HOST_BOOL(kHasConvBias);
#include "mamba/ops/block_step/gpu_step.h"
}

template <int kThreads>
void run_mixer(const Launch& launch) {
  check(launch.constant("kTaps") == 4 && launch.constant("kPer") <= 4,
        "the host's blocks have 4 taps, 16 states at most");
  const bool narrow = launch.constant("T") == static_cast<int>(mx::Dtype::Val::bfloat16);
  host::run(narrow ? mixer<mx::bfloat16_t, kThreads> : mixer<float, kThreads>, launch);
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect

namespace mamba::ops::step {

void use_host_kernels() {
  namespace dialect = gpu::dialect;
  gpu::set_host_body("mamba_mixer_step", [](const gpu::host::Launch& launch) {
    switch (launch.constant("kThreads")) {
      case 64:
        return dialect::run_mixer<64>(launch);
      case 256:
        return dialect::run_mixer<256>(launch);
      default:
        throw Error("the host has no blocks of so many threads");
    }
  });
}

}  // namespace mamba::ops::step
