#include "mamba/ops/global_norm/gpu_host.h"

#include "mamba/ops/gpu/dialect_host.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::ops::gpu::dialect {
namespace {

constexpr int kThreads = 256;

void squares(const host::Launch& launch) {
  MAMBA_HOST_IN(numbers);
  MAMBA_HOST_IN(count);
  MAMBA_HOST_OUT(part);
#include "mamba/ops/global_norm/gpu_squares.h"
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect

namespace mamba::ops::global_norm_detail {

void use_host_kernels() {
  gpu::set_host_body("mamba_norm_squares",
                     [](const gpu::host::Launch& launch) { gpu::host::run(gpu::dialect::squares, launch); });
}

}  // namespace mamba::ops::global_norm_detail
