#include "mamba/ops/causal_conv1d/gpu_host.h"

#include "mamba/base/error.h"
#include "mamba/ops/gpu/dialect_host.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::ops::gpu::dialect {
namespace {

using T = float;  // dtypes are the arrays' own business on the host
using host::Launch;

constexpr int kRun = 16;
constexpr int kTile = 4;
constexpr int kThreads = 128;

template <int kTaps>
struct Bodies {
  template <int kEach>
  static void forward(const Launch& launch) {
    MAMBA_HOST_IN(x);
    MAMBA_HOST_IN(weight);
    MAMBA_HOST_IN(bias);
    MAMBA_HOST_IN(first);
    MAMBA_HOST_IN(spans);
    MAMBA_HOST_IN(resets);
    MAMBA_HOST_OUT(y);
    MAMBA_HOST_OUT(state);
    MAMBA_HOST_BOOL(kHasBias);
    MAMBA_HOST_BOOL(kHasState);
    MAMBA_HOST_BOOL(kSilu);
    MAMBA_HOST_BOOL(kHasSpans);
    MAMBA_HOST_BOOL(kHasResets);
#include "mamba/ops/causal_conv1d/gpu_forward.h"
  }

  static void backward(const Launch& launch) {
    MAMBA_HOST_IN(x);
    MAMBA_HOST_IN(weight);
    MAMBA_HOST_IN(bias);
    MAMBA_HOST_IN(first);
    MAMBA_HOST_IN(spans);
    MAMBA_HOST_IN(resets);
    MAMBA_HOST_IN(gy);
    MAMBA_HOST_IN(gstate);
    MAMBA_HOST_OUT(gx);
    MAMBA_HOST_OUT(gfirst);
    MAMBA_HOST_OUT(part_weight);
    MAMBA_HOST_OUT(part_bias);
    MAMBA_HOST_BOOL(kHasBias);
    MAMBA_HOST_BOOL(kHasState);
    MAMBA_HOST_BOOL(kSilu);
    MAMBA_HOST_BOOL(kHasSpans);
    MAMBA_HOST_BOOL(kHasLast);
    MAMBA_HOST_BOOL(kHasResets);
    MAMBA_HOST_INT(kTiles);
#include "mamba/ops/causal_conv1d/gpu_backward.h"
  }

  static void step(const Launch& launch) {
    MAMBA_HOST_IN(x);
    MAMBA_HOST_IN(weight);
    MAMBA_HOST_IN(bias);
    MAMBA_HOST_IN(first);
    MAMBA_HOST_OUT(y);
    MAMBA_HOST_OUT(state);
    MAMBA_HOST_BOOL(kHasBias);
    MAMBA_HOST_BOOL(kHasState);
    MAMBA_HOST_BOOL(kSilu);
#include "mamba/ops/causal_conv1d/gpu_step.h"
  }
};

template <typename F>
void with_bodies(const Launch& launch, F&& f) {
  check(launch.constant("kThreads") == kThreads, "the host has no convolution kernel of {} threads",
        launch.constant("kThreads"));
  switch (launch.constant("kTaps")) {
    case 1:
      return f(Bodies<1>{});
    case 2:
      return f(Bodies<2>{});
    case 3:
      return f(Bodies<3>{});
    case 4:
      return f(Bodies<4>{});
    case 5:
      return f(Bodies<5>{});
    default:
      throw Error("the host has no convolution kernel of so many taps");
  }
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect

namespace mamba::ops::conv {

void use_host_kernels() {
  using gpu::host::Launch;
  namespace dialect = gpu::dialect;
  gpu::set_host_body("mamba_conv_forward", [](const Launch& launch) {
    dialect::with_bodies(launch, [&](auto bodies) {
      using Bodies = decltype(bodies);
      gpu::host::run(launch.constant("kEach") == 2 ? Bodies::template forward<2> : Bodies::template forward<1>, launch);
    });
  });
  gpu::set_host_body("mamba_conv_backward", [](const Launch& launch) {
    dialect::with_bodies(launch, [&](auto bodies) { gpu::host::run(bodies.backward, launch); });
  });
  gpu::set_host_body("mamba_conv_step", [](const Launch& launch) {
    dialect::with_bodies(launch, [&](auto bodies) { gpu::host::run(bodies.step, launch); });
  });
}

}  // namespace mamba::ops::conv
