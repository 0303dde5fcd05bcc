#include "mamba/ops/block_step/gpu_host.h"

#include <mlx/types/half_types.h>

#include "mamba/base/error.h"
#include "mamba/ops/gpu/dialect_host.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::ops::gpu::dialect {
namespace {

namespace mx = mlx::core;
using host::Launch;

template <typename T, int kThreads, int kTile, bool kWhole>
void block(const Launch& launch) {
  using Residual = float;
  constexpr int kTaps = 4;
  constexpr int kPer = 4;
  MAMBA_HOST_IN(h);
  MAMBA_HOST_IN(norm);
  MAMBA_HOST_IN(in_proj);
  MAMBA_HOST_IN(conv_weight);
  MAMBA_HOST_IN(conv_bias);
  MAMBA_HOST_IN(x_proj);
  MAMBA_HOST_IN(dt_proj);
  MAMBA_HOST_IN(dt_bias);
  MAMBA_HOST_IN(A);
  MAMBA_HOST_IN(D);
  MAMBA_HOST_IN(out_proj);
  MAMBA_HOST_IN(conv);
  MAMBA_HOST_IN(ssm);
  MAMBA_HOST_IN(ahead);
  MAMBA_HOST_OUT(h_after);
  MAMBA_HOST_OUT(conv_after);
  MAMBA_HOST_OUT(ssm_after);
  MAMBA_HOST_OUT(u);
  MAMBA_HOST_OUT(z);
  MAMBA_HOST_OUT(dt_B_C);
  MAMBA_HOST_OUT(y);
  MAMBA_HOST_BOOL(kHasConvBias);
  MAMBA_HOST_INT(kEpsBits);
#include "mamba/ops/block_step/gpu_step.h"
}

template <int kThreads, int kTile>
void word_logits(const Launch& launch) {
  MAMBA_HOST_IN(h);
  MAMBA_HOST_IN(norm);
  MAMBA_HOST_IN(weight);
  MAMBA_HOST_OUT(logits);
  MAMBA_HOST_INT(kEpsBits);
#include "mamba/ops/block_step/gpu_logits.h"
}

template <int kThreads, int kTile>
void run_block(const Launch& launch) {
  const auto run = [&](auto t) {
    using T = decltype(t);
    const bool whole = launch.constant("kWhole") != 0;
    host::run(whole ? block<T, kThreads, kTile, true> : block<T, kThreads, kTile, false>, launch);
  };
  check(launch.constant("kTaps") == 4 && launch.constant("kPer") <= 4,
        "the host's blocks have 4 taps, 16 states at most");
  launch.constant("T") == static_cast<int>(mx::Dtype::Val::bfloat16) ? run(mx::bfloat16_t{}) : run(float{});
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect

namespace mamba::ops::step {

void use_host_kernels() {
  namespace dialect = gpu::dialect;
  using L = gpu::host::Launch;
  gpu::set_host_body("mamba_block_step", [](const L& launch) {
    const bool one = launch.constant("kTile") == 1;
    switch (launch.constant("kThreads")) {
      case 64:
        return one ? dialect::run_block<64, 1>(launch) : dialect::run_block<64, 4>(launch);
      case 256:
        return one ? dialect::run_block<256, 1>(launch) : dialect::run_block<256, 4>(launch);
      default:
        throw Error("the host has no blocks of so many threads");
    }
  });
  gpu::set_host_body("mamba_norm_logits", [](const L& launch) {
    check(launch.constant("kThreads") == 64, "the host's logits take 64 threads");
    gpu::host::run(launch.constant("kTile") == 1 ? dialect::word_logits<64, 1> : dialect::word_logits<64, 4>, launch);
  });
}

}  // namespace mamba::ops::step
