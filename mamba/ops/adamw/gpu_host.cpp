#include "mamba/ops/adamw/gpu_host.h"

#include <string>

#include "mamba/ops/adamw/flat_detail.h"
#include "mamba/ops/gpu/dialect_host.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::ops::gpu::dialect {
namespace {

using T = float;  // dtypes are the arrays' own business on the host

// What both kernels read, give and are told.
#define MAMBA_HOST_ADAMW         \
  MAMBA_HOST_IN(factors);        \
  MAMBA_HOST_IN(scale);          \
  MAMBA_HOST_IN(parameter);      \
  MAMBA_HOST_IN(m);              \
  MAMBA_HOST_IN(v);              \
  MAMBA_HOST_IN(average);        \
  MAMBA_HOST_OUT(new_parameter); \
  MAMBA_HOST_OUT(new_m);         \
  MAMBA_HOST_OUT(new_v);         \
  MAMBA_HOST_OUT(new_average);   \
  MAMBA_HOST_OUT(copy);          \
  MAMBA_HOST_INT(kThreads);      \
  MAMBA_HOST_BOOL(kHasAverage);  \
  MAMBA_HOST_BOOL(kHasCopy)

void update(const host::Launch& launch) {
  MAMBA_HOST_ADAMW;
  MAMBA_HOST_IN(gradient);
  MAMBA_HOST_BOOL(kHasScale);
#include "mamba/ops/adamw/gpu_update.h"
// What follows on it.
#include "mamba/ops/adamw/gpu_step.h"
}

void flat(const host::Launch& launch) {
  MAMBA_HOST_ADAMW;
  MAMBA_HOST_IN(table);
  MAMBA_HOST_INT(kArrays);
  MAMBA_HOST_INT(kChunk);
  MAMBA_HOST_INT(kAlign);
  MAMBA_HOST_BOOL(kInPlace);
  const host::Input gradient0 = launch.input("gradient0");
#include "mamba/ops/adamw/gpu_flat_begin.h"
  // On other devices a line of source for each.
  gradient = launch.input("gradient" + std::to_string(mine));
#include "mamba/ops/adamw/gpu_step.h"
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect

namespace mamba::ops::adamw_detail {

void use_host_kernels() {
  gpu::set_host_body("mamba_adamw_update",
                     [](const gpu::host::Launch& launch) { gpu::host::run(gpu::dialect::update, launch); });
  for (const size_t items : {size_t{1}, kFlatItems}) {
    gpu::set_host_body("mamba_adamw_flat" + std::to_string(items),
                       [](const gpu::host::Launch& launch) { gpu::host::run(gpu::dialect::flat, launch); });
  }
}

}  // namespace mamba::ops::adamw_detail
