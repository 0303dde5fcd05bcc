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

template <bool kLines>
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
  MAMBA_HOST_INT(kStaged);
#include "mamba/ops/linear_cross_entropy/gpu_both.h"
}

void run_both(const host::Launch& launch) {
  host::run(launch.constant("kLines") != 0 ? both<true> : both<false>, launch);
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect

namespace mamba::ops::linear_cross_entropy_detail {

void use_host_kernels() {
  using gpu::host::Launch;
  namespace dialect = gpu::dialect;
  gpu::set_host_body("mamba_loss_forward", [](const Launch& launch) { gpu::host::run(dialect::forward, launch); });
  gpu::set_host_body("mamba_loss_gradient", [](const Launch& launch) { gpu::host::run(dialect::gradient, launch); });
  gpu::set_host_body("mamba_loss_both", dialect::run_both);
  gpu::set_host_body("mamba_loss_both_staged", dialect::run_both);
}

}  // namespace mamba::ops::linear_cross_entropy_detail
