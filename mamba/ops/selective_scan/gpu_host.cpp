#include "mamba/ops/selective_scan/gpu_host.h"

#include "mamba/base/error.h"
#include "mamba/ops/gpu/dialect_host.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::ops::gpu::dialect {
namespace {

using T = float;  // dtypes are the arrays' own business on the host
using host::Launch;

#define SCAN_INPUTS()        \
  MAMBA_HOST_IN(delta);      \
  MAMBA_HOST_IN(A);          \
  MAMBA_HOST_IN(z);          \
  MAMBA_HOST_IN(delta_bias); \
  MAMBA_HOST_IN(spans);      \
  MAMBA_HOST_IN(resets)

// What gpu_local.h has under other names, or does without.
#define SCAN_SEQUENCES() \
  MAMBA_HOST_IN(u);      \
  MAMBA_HOST_IN(B);      \
  MAMBA_HOST_IN(C);      \
  MAMBA_HOST_IN(D)

#define SCAN_CONSTANTS()      \
  MAMBA_HOST_INT(kBlock);     \
  MAMBA_HOST_BOOL(kSoftplus); \
  MAMBA_HOST_BOOL(kHasBias);  \
  MAMBA_HOST_BOOL(kHasZ);     \
  MAMBA_HOST_BOOL(kHasSpans); \
  MAMBA_HOST_BOOL(kHasResets)

template <int kLanes, int kM, int kThreads, int kSegment, int kTile, int kEach = 1>
struct Bodies {
  static void forward(const Launch& launch) {
    SCAN_INPUTS();
    SCAN_SEQUENCES();
    MAMBA_HOST_IN(first);
    MAMBA_HOST_OUT(y);
    MAMBA_HOST_OUT(state);
    MAMBA_HOST_OUT(kept);
    SCAN_CONSTANTS();
    MAMBA_HOST_BOOL(kHasD);
    MAMBA_HOST_BOOL(kHasState);
    MAMBA_HOST_BOOL(kChunked);
    MAMBA_HOST_BOOL(kKeep);
    MAMBA_HOST_BOOL(kIsLocal);
    MAMBA_HOST_BOOL(kReverse);
    MAMBA_HOST_BOOL(kSparse);
    constexpr int kSteps = kTile;
#include "mamba/ops/selective_scan/gpu_begin.h"
// What follows on it.
#include "mamba/ops/selective_scan/gpu_forward.h"
  }

  static void local(const Launch& launch) {
    SCAN_INPUTS();
    MAMBA_HOST_IN(x);
    MAMBA_HOST_IN(W);
    MAMBA_HOST_OUT(carried);
    MAMBA_HOST_OUT(total);
    SCAN_CONSTANTS();
    MAMBA_HOST_BOOL(kIsLocal);
    MAMBA_HOST_BOOL(kReverse);
    MAMBA_HOST_BOOL(kSparse);
    constexpr int kSteps = kTile;
#include "mamba/ops/selective_scan/gpu_begin.h"
// What follows on it.
#include "mamba/ops/selective_scan/gpu_local.h"
  }

  static void backward(const Launch& launch) {
    SCAN_INPUTS();
    SCAN_SEQUENCES();
    MAMBA_HOST_IN(gy);
    MAMBA_HOST_IN(kept);
    MAMBA_HOST_IN(last);
    MAMBA_HOST_OUT(gu);
    MAMBA_HOST_OUT(gdelta);
    MAMBA_HOST_OUT(gz);
    MAMBA_HOST_OUT(spare);
    MAMBA_HOST_OUT(more);
    MAMBA_HOST_OUT(part_D);
    MAMBA_HOST_OUT(gfirst);
    MAMBA_HOST_OUT(y);
    SCAN_CONSTANTS();
    MAMBA_HOST_BOOL(kHasD);
    MAMBA_HOST_BOOL(kHasState);
    MAMBA_HOST_BOOL(kHasLast);
    MAMBA_HOST_BOOL(kGiveY);
    MAMBA_HOST_BOOL(kChunked);
    constexpr int kSteps = kTile;
#include "mamba/ops/selective_scan/gpu_backward_begin.h"
// What follows on it.
#include "mamba/ops/selective_scan/gpu_backward.h"
  }
};

void sum(const Launch& launch) {
  using OfD = float;
  using OfBias = float;
  MAMBA_HOST_IN(kept);
  MAMBA_HOST_IN(ends);
  MAMBA_HOST_IN(more);
  MAMBA_HOST_IN(part_D);
  MAMBA_HOST_IN(u);
  MAMBA_HOST_OUT(sum_A);
  MAMBA_HOST_OUT(sum_D);
  MAMBA_HOST_OUT(sum_bias);
  MAMBA_HOST_OUT(sum_BC);
  MAMBA_HOST_INT(kThreads);
  MAMBA_HOST_INT(kBlock);
  MAMBA_HOST_INT(kSegment);
#include "mamba/ops/selective_scan/gpu_sum.h"
}

void carry(const Launch& launch) {
  MAMBA_HOST_IN(carried);
  MAMBA_HOST_IN(total);
  MAMBA_HOST_IN(A);
  MAMBA_HOST_IN(first);
  MAMBA_HOST_OUT(done);
  MAMBA_HOST_INT(kThreads);
  MAMBA_HOST_INT(kBlock);
  MAMBA_HOST_BOOL(kHasState);
  MAMBA_HOST_BOOL(kReverse);
#include "mamba/ops/selective_scan/gpu_carry.h"
}

template <int kLanes>
void step(const Launch& launch) {
  MAMBA_HOST_IN(u);
  MAMBA_HOST_IN(delta);
  MAMBA_HOST_IN(A);
  MAMBA_HOST_IN(B);
  MAMBA_HOST_IN(C);
  MAMBA_HOST_IN(D);
  MAMBA_HOST_IN(z);
  MAMBA_HOST_IN(delta_bias);
  MAMBA_HOST_IN(first);
  MAMBA_HOST_OUT(y);
  MAMBA_HOST_OUT(state);
  MAMBA_HOST_INT(kThreads);
  MAMBA_HOST_BOOL(kSoftplus);
  MAMBA_HOST_BOOL(kHasBias);
  MAMBA_HOST_BOOL(kHasZ);
  MAMBA_HOST_BOOL(kHasD);
  MAMBA_HOST_BOOL(kHasState);
#include "mamba/ops/selective_scan/gpu_step.h"
}

// Calls f(Bodies<...>{}) with the constants that the launch asks for: the rows of shape_of() and forward_shape_of().
template <typename F>
void with_bodies(const Launch& launch, F&& f) {
  const auto is = [&](int lanes, int per_lane, int threads, int segment) {
    return launch.constant("kLanes") == lanes && launch.constant("kM") == per_lane &&
           launch.constant("kThreads") == threads && launch.constant("kSegment") == segment;
  };
  if (is(1, 4, 64, 32)) return f(Bodies<1, 4, 64, 32, 8>{});
  if (is(2, 4, 128, 32)) return f(Bodies<2, 4, 128, 32, 8>{});
  if (is(2, 8, 128, 32) && launch.constant("kSteps") == 4) return f(Bodies<2, 8, 128, 32, 4>{});
  if (is(2, 8, 128, 32)) return f(Bodies<2, 8, 128, 32, 8>{});
  if (is(2, 8, 64, 32) && launch.constant("kEach") == 2) return f(Bodies<2, 8, 64, 32, 8, 2>{});
  if (is(1, 16, 64, 32)) return f(Bodies<1, 16, 64, 32, 4, 2>{});
  if (is(4, 4, 128, 32)) return f(Bodies<4, 4, 128, 32, 8>{});
  if (is(4, 4, 192, 32)) return f(Bodies<4, 4, 192, 32, 8>{});
  if (is(4, 8, 64, 32)) return f(Bodies<4, 8, 64, 32, 8>{});
  if (is(8, 8, 128, 8)) return f(Bodies<8, 8, 128, 8, 8>{});
  if (is(8, 16, 64, 8)) return f(Bodies<8, 16, 64, 8, 8>{});
  if (is(8, 32, 32, 8)) return f(Bodies<8, 32, 32, 8, 8>{});
  throw Error("the host has no scan kernel with these constants");
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect

namespace mamba::ops::scan {

void use_host_kernels() {
  using gpu::host::Launch;
  namespace dialect = gpu::dialect;
  gpu::set_host_body("mamba_scan_forward", [](const Launch& launch) {
    dialect::with_bodies(launch, [&](auto bodies) { gpu::host::run(bodies.forward, launch); });
  });
  gpu::set_host_body("mamba_scan_local", [](const Launch& launch) {
    dialect::with_bodies(launch, [&](auto bodies) { gpu::host::run(bodies.local, launch); });
  });
  gpu::set_host_body("mamba_scan_backward", [](const Launch& launch) {
    dialect::with_bodies(launch, [&](auto bodies) { gpu::host::run(bodies.backward, launch); });
  });
  gpu::set_host_body("mamba_scan_sum", [](const Launch& launch) { gpu::host::run(dialect::sum, launch); });
  gpu::set_host_body("mamba_scan_carry", [](const Launch& launch) { gpu::host::run(dialect::carry, launch); });
  gpu::set_host_body("mamba_scan_step", [](const Launch& launch) {
    gpu::host::run(launch.constant("kLanes") == 4 ? dialect::step<4> : dialect::step<16>, launch);
  });
}

}  // namespace mamba::ops::scan
