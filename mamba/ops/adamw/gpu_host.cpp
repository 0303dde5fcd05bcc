#include "mamba/ops/adamw/gpu_host.h"

#include "mamba/ops/gpu/dialect_host.h"
#include "mamba/ops/gpu/kernel.h"

// The arrays of one parameter.
#define MAMBA_HOST_ITEM(i)          \
  MAMBA_HOST_IN(parameter##i);      \
  MAMBA_HOST_IN(gradient##i);       \
  MAMBA_HOST_IN(m##i);              \
  MAMBA_HOST_IN(v##i);              \
  MAMBA_HOST_IN(average##i);        \
  MAMBA_HOST_OUT(new_parameter##i); \
  MAMBA_HOST_OUT(new_m##i);         \
  MAMBA_HOST_OUT(new_v##i);         \
  MAMBA_HOST_OUT(new_average##i);   \
  MAMBA_HOST_OUT(copy##i)
#define MAMBA_HOST_REST()       \
  MAMBA_HOST_IN(factors);       \
  MAMBA_HOST_IN(scale);         \
  MAMBA_HOST_INT(kThreads);     \
  MAMBA_HOST_BOOL(kHasScale);   \
  MAMBA_HOST_BOOL(kHasAverage); \
  MAMBA_HOST_BOOL(kHasCopy)

namespace mamba::ops::gpu::dialect {
namespace {

using T = float;  // dtypes are the arrays' own business on the host

void update_one(const host::Launch& launch) {
  MAMBA_HOST_REST();
  MAMBA_HOST_ITEM(0);
#include "mamba/ops/adamw/gpu_update.h"
  MAMBA_UPDATE(0, parameter0_shape[0])
#undef MAMBA_UPDATE
}

void update_many(const host::Launch& launch) {
  MAMBA_HOST_REST();
  MAMBA_HOST_ITEM(0);
  MAMBA_HOST_ITEM(1);
  MAMBA_HOST_ITEM(2);
  MAMBA_HOST_ITEM(3);
  MAMBA_HOST_ITEM(4);
  MAMBA_HOST_ITEM(5);
  MAMBA_HOST_ITEM(6);
  MAMBA_HOST_ITEM(7);
#include "mamba/ops/adamw/gpu_update.h"
  MAMBA_UPDATE(0, parameter0_shape[0])
  MAMBA_UPDATE(1, parameter1_shape[0])
  MAMBA_UPDATE(2, parameter2_shape[0])
  MAMBA_UPDATE(3, parameter3_shape[0])
  MAMBA_UPDATE(4, parameter4_shape[0])
  MAMBA_UPDATE(5, parameter5_shape[0])
  MAMBA_UPDATE(6, parameter6_shape[0])
  MAMBA_UPDATE(7, parameter7_shape[0])
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect

namespace mamba::ops::adamw_detail {

void use_host_kernels() {
  gpu::set_host_body("mamba_adamw_update1",
                     [](const gpu::host::Launch& launch) { gpu::host::run(gpu::dialect::update_one, launch); });
  gpu::set_host_body("mamba_adamw_update8",
                     [](const gpu::host::Launch& launch) { gpu::host::run(gpu::dialect::update_many, launch); });
}

}  // namespace mamba::ops::adamw_detail
