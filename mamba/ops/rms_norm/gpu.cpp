#include "mamba/ops/rms_norm/gpu.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "mamba/ops/gpu/kernel.h"

namespace mamba::embedded {
std::string_view gpu_norm_forward();
std::string_view gpu_norm_backward();
}  // namespace mamba::embedded

namespace mamba::ops::norm {

namespace mx = mlx::core;
using gpu::Constants;
using gpu::Kernel;

namespace {

// Groups of the backward pass, each with a share of the weight's gradient: six to each of a large GPU's units.
constexpr int kMostGroups = 792;

const Kernel& forward_kernel() {
  static const Kernel kernel("mamba_norm_forward", embedded::gpu_norm_forward(), {"x", "weight", "residual"},
                             {"y", "sum"});
  return kernel;
}

const Kernel& backward_kernel() {
  static const Kernel kernel("mamba_norm_backward", embedded::gpu_norm_backward(), {"x", "weight", "gy", "gsum"},
                             {"gx", "gwide", "part"});
  return kernel;
}

struct Plan {
  float eps;
  bool has_residual;
  std::optional<mx::Dtype> sum_dtype;
  mx::Stream stream;

  static int threads(int channels) { return channels <= 1024 ? 128 : 256; }

  Constants constants(int channels, mx::Dtype dtype) const {
    const int count = threads(channels);
    return {{"T", dtype},
            {"kThreads", count},
            {"kPer", (channels + count - 1) / count},
            {"kEpsBits", std::bit_cast<int>(eps)},
            {"kHasSum", sum_dtype.has_value()}};
  }
};

mx::array as_rows(const mx::array& a, const mx::Stream& s) {
  const int channels = a.shape(-1);
  return gpu::contiguous(mx::reshape(a, {static_cast<int>(a.size()) / channels, channels}, s), s);
}

// Inputs: x, the weight, the residual or a stand-in. Outputs: y and the sum or a stand-in.
std::vector<mx::array> forward(const Plan& plan, const std::vector<mx::array>& in, mx::Dtype dtype) {
  const mx::array rows = as_rows(in[0], plan.stream);
  const int channels = rows.shape(1);
  const mx::Dtype sum_dtype = plan.sum_dtype.value_or(mx::float32);
  Constants constants = plan.constants(channels, dtype);
  constants.insert(constants.end(), {{"Sum", sum_dtype}, {"kHasResidual", plan.has_residual}});
  const std::vector<mx::array> out =
      forward_kernel()({rows, in[1], plan.has_residual ? as_rows(in[2], plan.stream) : in[1]},
                       {in[0].shape(), plan.sum_dtype ? in[0].shape() : mx::Shape{1}}, {dtype, sum_dtype},
                       {{rows.shape(0), 1, 1}, Plan::threads(channels)}, constants, plan.stream);
  return out;
}

std::vector<mx::array> backward(const Plan& plan, const std::vector<mx::array>& in, const mx::array& normalised,
                                const mx::array& gy, const mx::array& gsum) {
  const mx::Stream& s = plan.stream;
  const mx::array rows = as_rows(normalised, s);
  const int channels = rows.shape(1);
  // x and the residual have the same gradient, each in its dtype.
  const bool wide = plan.has_residual && in[2].dtype() != in[0].dtype();
  const mx::Dtype dtype = in[0].dtype();
  const int groups = std::min(rows.shape(0), kMostGroups);
  Constants constants = plan.constants(channels, dtype);
  constants.emplace_back("kWide", wide);
  const std::vector<mx::array> out =
      backward_kernel()({rows, in[1], as_rows(gy, s), plan.sum_dtype ? as_rows(gsum, s) : in[1]},
                        {in[0].shape(), wide ? in[0].shape() : mx::Shape{1}, {groups, channels}},
                        {dtype, mx::float32, mx::float32}, {{groups, 1, 1}, Plan::threads(channels)}, constants, s);
  return {out[0], mx::astype(mx::sum(out[2], 0, false, s), in[1].dtype(), s),
          plan.has_residual ? out[wide ? 1 : 0] : mx::zeros_like(in[2], s)};
}

}  // namespace

std::pair<mx::array, mx::array> gpu_norm(const mx::array& x, const std::optional<mx::array>& residual,
                                         const mx::array& weight, float eps, std::optional<mx::Dtype> sum_dtype,
                                         const mx::Stream& stream) {
  if (x.size() == 0) {
    return {x, sum_dtype ? mx::astype(x, *sum_dtype, stream) : x};
  }
  const Plan plan{eps, residual.has_value(), sum_dtype, stream};
  const mx::array w = gpu::contiguous(weight, stream);
  const std::vector<mx::array> inputs = {x, w, residual.value_or(w)};
  const bool traced = x.is_tracer() || weight.is_tracer() || (residual && residual->is_tracer());
  std::vector<mx::array> out;
  if (traced) {
    out = mx::custom_vjp(
        [plan](const std::vector<mx::array>& primals) { return forward(plan, primals, primals[0].dtype()); },
        [plan](const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
               const std::vector<mx::array>& outputs) {
          return backward(plan, primals, plan.sum_dtype ? outputs[1] : primals[0], cotangents[0], cotangents[1]);
        })(inputs);
  } else {
    out = forward(plan, inputs, x.dtype());
  }
  return {out[0], sum_dtype ? out[1] : x};
}

mx::array gpu_norm_again(const mx::array& sum, const mx::array& weight, float eps, mx::Dtype dtype,
                         const mx::Stream& stream) {
  const mx::array w = gpu::contiguous(weight, stream);
  return forward({eps, false, std::nullopt, stream}, {sum, w, w}, dtype)[0];
}

}  // namespace mamba::ops::norm
