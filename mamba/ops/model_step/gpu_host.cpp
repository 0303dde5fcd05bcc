#include "mamba/ops/model_step/gpu_host.h"

#include <mlx/types/half_types.h>

#include "mamba/base/error.h"
#include "mamba/ops/gpu/dialect_host.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::ops::gpu::dialect {
namespace {

namespace mx = mlx::core;
using host::Launch;

template <typename T, int kThreads, int kFew, int kInRowTiles, int kInRowParts, int kInTiles, int kOutRowTiles,
          int kOutRowParts, int kOutTiles, int kWordTiles, int kWordRowTiles, int kSequences, bool kWhole>
void model(const Launch& launch) {
  using Residual = float;
  constexpr int kTaps = 4;
  constexpr int kPer = 4;
  constexpr int kSquares = 2;
  MAMBA_HOST_IN(tokens);
  MAMBA_HOST_IN(embeddings);
  MAMBA_HOST_IN(norm);
  MAMBA_HOST_IN(in_proj);
  MAMBA_HOST_IN(conv_weight);
  MAMBA_HOST_IN(conv_bias);
  MAMBA_HOST_IN(x_proj);
  MAMBA_HOST_IN(dt_proj);
  MAMBA_HOST_IN(dt_bias);
  MAMBA_HOST_IN(A);
  MAMBA_HOST_IN(D);
  MAMBA_HOST_IN(out_proj);
  MAMBA_HOST_IN(norm_f);
  MAMBA_HOST_IN(output);
  MAMBA_HOST_IN(conv);
  MAMBA_HOST_IN(ssm);
  MAMBA_HOST_OUT(logits);
  MAMBA_HOST_OUT(conv_after);
  MAMBA_HOST_OUT(ssm_after);
  MAMBA_HOST_OUT(h);
  MAMBA_HOST_OUT(numbers);
  MAMBA_HOST_OUT(floats);
  MAMBA_HOST_BOOL(kHasConvBias);
  MAMBA_HOST_INT(kEpsBits);
  MAMBA_HOST_INT(kAhead);
  constexpr bool kDots = kFew == 1 && sizeof(T) == 4;
  MAMBA_HOST_BOOL(kEarly);
#include "mamba/ops/model_step/gpu_step.h"
}

template <int kThreads, int kFew, int kInRowTiles, int kInRowParts, int kInTiles, int kOutRowTiles, int kOutRowParts,
          int kOutTiles, int kWordTiles, int kWordRowTiles, int kSequences>
bool run_model(const Launch& launch) {
  const auto is = [&](const char* name, int value) { return launch.constant(name) == value; };
  if (!is("kThreads", kThreads) || !is("kFew", kFew) || !is("kInRowTiles", kInRowTiles) ||
      !is("kInRowParts", kInRowParts) || !is("kInTiles", kInTiles) || !is("kOutRowTiles", kOutRowTiles) ||
      !is("kOutRowParts", kOutRowParts) || !is("kOutTiles", kOutTiles) || !is("kWordTiles", kWordTiles) ||
      !is("kWordRowTiles", kWordRowTiles) || !is("kSequences", kSequences)) {
    return false;
  }
  check(is("kTaps", 4) && launch.constant("kPer") <= 4 && launch.constant("kSquares") <= 2,
        "the host's models have 4 taps, 16 states at most and a small width");
  const auto run = [&](auto t) {
    using T = decltype(t);
    const bool whole = launch.constant("kWhole") != 0;
    host::run(whole ? model<T, kThreads, kFew, kInRowTiles, kInRowParts, kInTiles, kOutRowTiles, kOutRowParts,
                            kOutTiles, kWordTiles, kWordRowTiles, kSequences, true>
                    : model<T, kThreads, kFew, kInRowTiles, kInRowParts, kInTiles, kOutRowTiles, kOutRowParts,
                            kOutTiles, kWordTiles, kWordRowTiles, kSequences, false>,
              launch);
  };
  launch.constant("T") == static_cast<int>(mx::Dtype::Val::bfloat16) ? run(mx::bfloat16_t{}) : run(float{});
  return true;
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect

namespace mamba::ops::step {

void use_host_model_kernel() {
  gpu::set_host_body("mamba_model_step", [](const gpu::host::Launch& launch) {
    namespace dialect = gpu::dialect;
    const bool ran = dialect::run_model<64, 1, 1, 1, 5, 1, 1, 7, 1, 1, 1>(launch) ||
                     dialect::run_model<64, 8, 1, 1, 1, 1, 1, 3, 2, 1, 1>(launch) ||
                     dialect::run_model<128, 16, 2, 2, 3, 1, 1, 2, 1, 3, 4>(launch);
    check(ran, "the host has no models cut like that");
  });
}

}  // namespace mamba::ops::step
