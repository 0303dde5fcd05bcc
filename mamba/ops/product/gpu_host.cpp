#include "mamba/ops/product/gpu_host.h"

#include "mamba/ops/gpu/dialect_host.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::ops::gpu::dialect {
namespace {

void split(const host::Launch& launch) {
  MAMBA_HOST_IN(x);
  MAMBA_HOST_OUT(parts);
  MAMBA_HOST_INT(kThreads);
  MAMBA_HOST_INT(kPer);
  MAMBA_HOST_INT(kParts);
  MAMBA_HOST_INT(kLow);
  MAMBA_HOST_BOOL(kBlocks);
  MAMBA_HOST_INT(kPiece);
  MAMBA_HOST_BOOL(kWide);
#include "mamba/ops/product/gpu_split.h"
}

void split_turned(const host::Launch& launch) {
  MAMBA_HOST_IN(x);
  MAMBA_HOST_OUT(parts);
  MAMBA_HOST_INT(kParts);
  MAMBA_HOST_INT(kLow);
  MAMBA_HOST_INT(kPiece);
#include "mamba/ops/product/gpu_split_turned.h"
}

void sum(const host::Launch& launch) {
  MAMBA_HOST_IN(a);
  MAMBA_HOST_IN(b);
  MAMBA_HOST_OUT(out);
  MAMBA_HOST_INT(kThreads);
  MAMBA_HOST_INT(kPer);
#include "mamba/ops/product/gpu_sum.h"
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect

namespace mamba::ops::product_detail {

void use_host_kernels() {
  using gpu::host::Launch;
  gpu::set_host_body("mamba_product_split", [](const Launch& launch) { gpu::host::run(gpu::dialect::split, launch); });
  gpu::set_host_body("mamba_product_split_turned",
                     [](const Launch& launch) { gpu::host::run(gpu::dialect::split_turned, launch); });
  gpu::set_host_body("mamba_product_sum", [](const Launch& launch) { gpu::host::run(gpu::dialect::sum, launch); });
}

}  // namespace mamba::ops::product_detail
