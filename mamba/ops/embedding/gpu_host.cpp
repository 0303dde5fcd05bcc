#include "mamba/ops/embedding/gpu_host.h"

#include "mamba/ops/gpu/dialect_host.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::ops::gpu::dialect {
namespace {

void gradient(const host::Launch& launch) {
  using T = float;
  MAMBA_HOST_IN(sorted);
  MAMBA_HOST_IN(order);
  MAMBA_HOST_IN(dy);
  MAMBA_HOST_IN(base);
  MAMBA_HOST_OUT(out);
  MAMBA_HOST_INT(kThreads);
  MAMBA_HOST_BOOL(kHasBase);
#include "mamba/ops/embedding/gpu_gradient.h"
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect

namespace mamba::ops::embedding_detail {

void use_host_kernels() {
  gpu::set_host_body("mamba_embedding_gradient",
                     [](const gpu::host::Launch& launch) { gpu::host::run(gpu::dialect::gradient, launch); });
}

}  // namespace mamba::ops::embedding_detail
