#include "mamba/ops/global_norm/gpu_host.h"

#include "mamba/ops/gpu/dialect_host.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::ops::gpu::dialect {
namespace {

constexpr int kThreads = 256;

void squares_of_one(const host::Launch& launch) {
  MAMBA_HOST_IN(numbers0);
  MAMBA_HOST_OUT(part);
#include "mamba/ops/global_norm/gpu_squares.h"
  MAMBA_ADD_SQUARES(0, numbers0_shape[0])
  MAMBA_SUM_SQUARES
#undef MAMBA_ADD_SQUARES
#undef MAMBA_SUM_SQUARES
}

void squares_of_many(const host::Launch& launch) {
  MAMBA_HOST_IN(numbers0);
  MAMBA_HOST_IN(numbers1);
  MAMBA_HOST_IN(numbers2);
  MAMBA_HOST_IN(numbers3);
  MAMBA_HOST_IN(numbers4);
  MAMBA_HOST_IN(numbers5);
  MAMBA_HOST_IN(numbers6);
  MAMBA_HOST_IN(numbers7);
  MAMBA_HOST_IN(numbers8);
  MAMBA_HOST_IN(numbers9);
  MAMBA_HOST_IN(numbers10);
  MAMBA_HOST_IN(numbers11);
  MAMBA_HOST_OUT(part);
#include "mamba/ops/global_norm/gpu_squares.h"
  MAMBA_ADD_SQUARES(0, numbers0_shape[0])
  MAMBA_ADD_SQUARES(1, numbers1_shape[0])
  MAMBA_ADD_SQUARES(2, numbers2_shape[0])
  MAMBA_ADD_SQUARES(3, numbers3_shape[0])
  MAMBA_ADD_SQUARES(4, numbers4_shape[0])
  MAMBA_ADD_SQUARES(5, numbers5_shape[0])
  MAMBA_ADD_SQUARES(6, numbers6_shape[0])
  MAMBA_ADD_SQUARES(7, numbers7_shape[0])
  MAMBA_ADD_SQUARES(8, numbers8_shape[0])
  MAMBA_ADD_SQUARES(9, numbers9_shape[0])
  MAMBA_ADD_SQUARES(10, numbers10_shape[0])
  MAMBA_ADD_SQUARES(11, numbers11_shape[0])
  MAMBA_SUM_SQUARES
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect

namespace mamba::ops::global_norm_detail {

void use_host_kernels() {
  gpu::set_host_body("mamba_norm_squares1",
                     [](const gpu::host::Launch& launch) { gpu::host::run(gpu::dialect::squares_of_one, launch); });
  gpu::set_host_body("mamba_norm_squares12",
                     [](const gpu::host::Launch& launch) { gpu::host::run(gpu::dialect::squares_of_many, launch); });
}

}  // namespace mamba::ops::global_norm_detail
