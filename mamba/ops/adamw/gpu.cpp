#include "mamba/ops/adamw/gpu.h"

#include <mlx/ops.h>

#include <algorithm>
#include <vector>

#include "mamba/ops/adamw/kernel.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::embedded {
std::string_view gpu_adamw_step();
std::string_view gpu_adamw_update();
}  // namespace mamba::embedded

namespace mamba::ops::adamw_detail {

namespace mx = mlx::core;

AdamWOutputs gpu_update(const AdamWInputs& in, const AdamWOptions& options, const mx::Stream& stream) {
  constexpr int kThreads = 256;
  constexpr int kPer = 4;
  constexpr int kMostGroups = 2112;  // what fills a large GPU with room to spare
  static const gpu::Kernel kernel("mamba_adamw_update",
                                  gpu::joined({embedded::gpu_adamw_update(), embedded::gpu_adamw_step()}),
                                  {"factors", "scale", "parameter", "gradient", "m", "v", "average"},
                                  {"new_parameter", "new_m", "new_v", "new_average", "copy"});
  const mx::Dtype copy_dtype = options.copy_dtype.value_or(mx::float32);
  const mx::Shape& shape = in.parameter.shape();
  const auto count = static_cast<int>(in.parameter.size());
  if (count == 0) {
    return {in.parameter, in.m, in.v, in.average,
            options.copy_dtype ? std::optional(mx::zeros(shape, copy_dtype, stream)) : std::nullopt};
  }
  const Factors f = factors_of(options);
  const mx::array factors({f.beta1, f.one_minus_beta1, f.beta2, f.one_minus_beta2, f.keep, f.step_size, f.root_of_bias2,
                           f.eps, f.average_decay, f.one_minus_average_decay});
  const auto flat = [&](const mx::array& a) {
    return mx::reshape(gpu::contiguous(a, stream), {static_cast<int>(a.size())}, stream);
  };
  const mx::Shape none = {1};
  const std::vector<mx::array> out =
      kernel({factors, in.gradient_scale ? flat(*in.gradient_scale) : factors, flat(in.parameter), flat(in.gradient),
              flat(in.m), flat(in.v), in.average ? flat(*in.average) : factors},
             {shape, shape, shape, in.average ? shape : none, options.copy_dtype ? shape : none},
             {mx::float32, mx::float32, mx::float32, mx::float32, copy_dtype},
             {{std::clamp(count / (kThreads * kPer), 1, kMostGroups), 1, 1}, kThreads},
             {{"T", copy_dtype},
              {"kThreads", kThreads},
              {"kHasScale", in.gradient_scale.has_value()},
              {"kHasAverage", in.average.has_value()},
              {"kHasCopy", options.copy_dtype.has_value()}},
             stream);
  return {out[0], out[1], out[2], in.average ? std::optional(out[3]) : std::nullopt,
          options.copy_dtype ? std::optional(out[4]) : std::nullopt};
}

}  // namespace mamba::ops::adamw_detail
