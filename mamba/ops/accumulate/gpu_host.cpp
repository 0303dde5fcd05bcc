#include "mamba/ops/accumulate/gpu_host.h"

#include "mamba/ops/gpu/dialect_host.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::ops::gpu::dialect {
namespace {

void add(const host::Launch& launch) {
  MAMBA_HOST_IN(sum);
  MAMBA_HOST_IN(value);
  MAMBA_HOST_OUT(out);
  MAMBA_HOST_INT(kThreads);
  MAMBA_HOST_INT(kPer);
#include "mamba/ops/accumulate/gpu_add.h"
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect

namespace mamba::ops::accumulate_detail {

void use_host_kernels() {
  gpu::set_host_body("mamba_accumulate_add",
                     [](const gpu::host::Launch& launch) { gpu::host::run(gpu::dialect::add, launch); });
}

}  // namespace mamba::ops::accumulate_detail
