#include "mamba/ops/linear_cross_entropy/gpu_host.h"

#include "mamba/ops/gpu/dialect_host.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::ops::gpu::dialect {
namespace {

using T = float;  // dtypes are the arrays' own business on the host

constexpr int kThreads = 256;

void forward(const host::Launch& launch) {
  MAMBA_HOST_IN(logits);
  MAMBA_HOST_IN(targets);
  MAMBA_HOST_OUT(log_probability);
  MAMBA_HOST_OUT(log_sums);
  MAMBA_HOST_INT(kIgnoredHigh);
  MAMBA_HOST_INT(kIgnoredLow);
#include "mamba/ops/linear_cross_entropy/gpu_forward.h"
}

void gradient(const host::Launch& launch) {
  MAMBA_HOST_IN(logits);
  MAMBA_HOST_IN(targets);
  MAMBA_HOST_IN(log_sums);
  MAMBA_HOST_IN(cotangent);
  MAMBA_HOST_OUT(gradient);
  MAMBA_HOST_INT(kIgnoredHigh);
  MAMBA_HOST_INT(kIgnoredLow);
  MAMBA_HOST_INT(kPer);
#include "mamba/ops/linear_cross_entropy/gpu_gradient.h"
}

void both(const host::Launch& launch) {
  MAMBA_HOST_IN(logits);
  MAMBA_HOST_IN(rest);
  MAMBA_HOST_IN(targets);
  MAMBA_HOST_IN(cotangent);
  MAMBA_HOST_OUT(log_probability);
  MAMBA_HOST_OUT(gradient);
  MAMBA_HOST_INT(kIgnoredHigh);
  MAMBA_HOST_INT(kIgnoredLow);
  MAMBA_HOST_BOOL(kPair);
  MAMBA_HOST_INT(kPieces);
  MAMBA_HOST_INT(kPieceWords);
#include "mamba/ops/linear_cross_entropy/gpu_both.h"
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect

namespace mamba::ops::linear_cross_entropy_detail {

void use_host_kernels() {
  using gpu::host::Launch;
  namespace dialect = gpu::dialect;
  gpu::set_host_body("mamba_loss_forward", [](const Launch& launch) { gpu::host::run(dialect::forward, launch); });
  gpu::set_host_body("mamba_loss_gradient", [](const Launch& launch) { gpu::host::run(dialect::gradient, launch); });
  gpu::set_host_body("mamba_loss_both", [](const Launch& launch) { gpu::host::run(dialect::both, launch); });
}

}  // namespace mamba::ops::linear_cross_entropy_detail
