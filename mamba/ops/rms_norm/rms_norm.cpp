#include "mamba/ops/rms_norm/rms_norm.h"

#include <mlx/ops.h>

#include <memory>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/rms_norm/again.h"
#include "mamba/ops/rms_norm/gpu.h"
#include "mamba/ops/rms_norm/primitive.h"
#include "mamba/ops/rms_norm/reference.h"

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

constexpr const char* kOp = "rms_norm";

void check_inputs(const mx::array& x, const mx::array& weight) {
  check_float(kOp, "x", x);
  check_float(kOp, "weight", weight);
  check(x.ndim() >= 1 && x.shape(-1) >= 1, "[{}] x must be (..., D) with D at least 1 but has shape {}", kOp,
        shown(x.shape()));
  check_shape(kOp, "weight", weight, {x.shape(-1)});
}

}  // namespace

mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps, mx::StreamOrDevice s) {
  check_inputs(x, weight);
  const mx::Stream stream = mx::to_stream(s);
  if (!on_cpu(stream)) {
    if (x.shape(-1) <= norm::kMaxGpuChannels) {
      return norm::gpu_norm(x, std::nullopt, weight, eps, std::nullopt, stream).first;
    }
    report_missing_kernel(kOp, stream);
    return rms_norm_reference(x, weight, eps, stream);
  }
  return mx::array(x.shape(), x.dtype(), std::make_shared<norm::RmsNorm>(stream, norm::Settings{eps}), {x, weight});
}

std::pair<mx::array, mx::array> rms_norm_add(const mx::array& x, const std::optional<mx::array>& residual,
                                             const mx::array& weight, float eps,
                                             std::optional<mx::Dtype> residual_dtype, mx::StreamOrDevice s) {
  check_inputs(x, weight);
  if (residual) {
    check(residual->shape() == x.shape(), "[{}] residual must be {} but got {}", kOp, shown(x.shape()),
          shown(residual->shape()));
    check(residual->dtype() == x.dtype() || residual->dtype() == mx::float32,
          "[{}] residual must be float32 or have x's dtype {} but is {}", kOp, shown(x.dtype()),
          shown(residual->dtype()));
  }
  const mx::Dtype dtype = residual_dtype.value_or(residual ? residual->dtype() : x.dtype());
  check(dtype == x.dtype() || dtype == mx::float32,
        "[{}] the residual can be kept in float32 or in x's dtype {} but {} was asked for", kOp, shown(x.dtype()),
        shown(dtype));
  const mx::Stream stream = mx::to_stream(s);
  if (!residual && dtype == x.dtype()) {
    return {rms_norm(x, weight, eps, stream), x};
  }
  if (!on_cpu(stream)) {
    if (x.shape(-1) <= norm::kMaxGpuChannels) {
      return norm::gpu_norm(x, residual, weight, eps, dtype, stream);
    }
    report_missing_kernel(kOp, stream);
    return rms_norm_add_reference(x, residual, weight, eps, dtype, stream);
  }
  std::vector<mx::array> inputs = {x, weight};
  if (residual) {
    inputs.push_back(*residual);
  }
  std::vector<mx::array> outputs = mx::array::make_arrays(
      {x.shape(), x.shape()}, {x.dtype(), dtype}, std::make_shared<norm::RmsNorm>(stream, norm::Settings{eps}), inputs);
  return {outputs[0], outputs[1]};
}

mx::array rms_norm_again(const mx::array& sum, const mx::array& weight, float eps, mx::Dtype dtype,
                         mx::StreamOrDevice s) {
  check_inputs(sum, weight);
  const mx::Stream stream = mx::to_stream(s);
  if (!on_cpu(stream) && sum.shape(-1) <= norm::kMaxGpuChannels && sum.size() > 0) {
    return norm::gpu_norm_again(sum, weight, eps, dtype, stream);
  }
  return mx::astype(rms_norm(sum, weight, eps, s), dtype, s);
}

}  // namespace mamba::ops
