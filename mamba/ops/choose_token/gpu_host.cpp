#include "mamba/ops/choose_token/gpu_host.h"

#include "mamba/base/error.h"
#include "mamba/ops/gpu/dialect_host.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::ops::gpu::dialect {
namespace {

using host::Launch;

void choose(const Launch& launch) {
  constexpr int kThreads = 64;
  MAMBA_HOST_IN(logits);
  MAMBA_HOST_IN(settings);
  MAMBA_HOST_IN(draws);
  MAMBA_HOST_IN(seen);
  MAMBA_HOST_OUT(chosen);
  MAMBA_HOST_OUT(scores);
  MAMBA_HOST_OUT(seen_after);
  MAMBA_HOST_BOOL(kHasSeen);
  check(launch.constant("kThreads") == kThreads, "the host's kernel has {} threads", kThreads);
#include "mamba/ops/choose_token/gpu_choose.h"
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect

namespace mamba::ops::token {

void use_host_kernels() {
  gpu::set_host_body("mamba_choose_token",
                     [](const gpu::host::Launch& launch) { gpu::host::run(gpu::dialect::choose, launch); });
}

}  // namespace mamba::ops::token
