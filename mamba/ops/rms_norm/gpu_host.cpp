#include "mamba/ops/rms_norm/gpu_host.h"

#include <mlx/types/half_types.h>

#include "mamba/base/error.h"
#include "mamba/ops/gpu/dialect_host.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::ops::gpu::dialect {
namespace {

namespace mx = mlx::core;
using host::Launch;

// The sum is rounded before it is normalised, so here the dtypes are real.
template <typename T, typename Sum, int kThreads, int kPer>
void forward(const Launch& launch) {
  MAMBA_HOST_IN(x);
  MAMBA_HOST_IN(weight);
  MAMBA_HOST_IN(residual);
  MAMBA_HOST_OUT(y);
  MAMBA_HOST_OUT(sum);
  MAMBA_HOST_INT(kEpsBits);
  MAMBA_HOST_BOOL(kHasSum);
  MAMBA_HOST_BOOL(kHasResidual);
#include "mamba/ops/rms_norm/gpu_forward.h"
}

template <int kThreads, int kPer>
void backward(const Launch& launch) {
  using T = float;
  MAMBA_HOST_IN(x);
  MAMBA_HOST_IN(weight);
  MAMBA_HOST_IN(gy);
  MAMBA_HOST_IN(gsum);
  MAMBA_HOST_OUT(gx);
  MAMBA_HOST_OUT(gwide);
  MAMBA_HOST_OUT(part);
  MAMBA_HOST_INT(kEpsBits);
  MAMBA_HOST_BOOL(kHasSum);
  MAMBA_HOST_BOOL(kWide);
#include "mamba/ops/rms_norm/gpu_backward.h"
}

template <typename F>
void with_type(const Launch& launch, const char* name, F&& f) {
  switch (static_cast<mx::Dtype::Val>(launch.constant(name))) {
    case mx::Dtype::Val::bfloat16:
      return f(mx::bfloat16_t{});
    case mx::Dtype::Val::float16:
      return f(mx::float16_t{});
    default:
      return f(float{});
  }
}

template <int kThreads, int kPer>
struct Width {
  static void run_forward(const Launch& launch) {
    with_type(launch, "T", [&](auto t) {
      with_type(launch, "Sum",
                [&](auto sum) { host::run(forward<decltype(t), decltype(sum), kThreads, kPer>, launch); });
    });
  }
  static void run_backward(const Launch& launch) { host::run(backward<kThreads, kPer>, launch); }
};

template <typename F>
void with_width(const Launch& launch, F&& f) {
  const auto is = [&](int threads, int per) {
    return launch.constant("kThreads") == threads && launch.constant("kPer") == per;
  };
  if (is(128, 1)) return f(Width<128, 1>{});
  if (is(128, 2)) return f(Width<128, 2>{});
  if (is(128, 6)) return f(Width<128, 6>{});
  if (is(256, 5)) return f(Width<256, 5>{});
  throw Error("the host has no norm kernel of this width");
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect

namespace mamba::ops::norm {

void use_host_kernels() {
  using gpu::host::Launch;
  namespace dialect = gpu::dialect;
  gpu::set_host_body("mamba_norm_forward", [](const Launch& launch) {
    dialect::with_width(launch, [&](auto width) { width.run_forward(launch); });
  });
  gpu::set_host_body("mamba_norm_backward", [](const Launch& launch) {
    dialect::with_width(launch, [&](auto width) { width.run_backward(launch); });
  });
}

}  // namespace mamba::ops::norm
