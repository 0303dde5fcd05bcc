#include "mamba/ops/model_step/gpu_host.h"

#include <mlx/types/half_types.h>

#include "mamba/base/error.h"
#include "mamba/ops/gpu/dialect_host.h"
#include "mamba/ops/gpu/kernel.h"
#include "mamba/ops/model_step/gpu.h"

namespace mamba::ops::gpu::dialect {
namespace {

namespace mx = mlx::core;
using host::Launch;

// What all kernels of a model's step read, give and are told.
#define MAMBA_HOST_MODEL         \
  MAMBA_HOST_IN(tokens);         \
  MAMBA_HOST_IN(embeddings);     \
  MAMBA_HOST_IN(norm);           \
  MAMBA_HOST_IN(in_proj);        \
  MAMBA_HOST_IN(conv_weight);    \
  MAMBA_HOST_IN(conv_bias);      \
  MAMBA_HOST_IN(x_proj);         \
  MAMBA_HOST_IN(dt_proj);        \
  MAMBA_HOST_IN(dt_bias);        \
  MAMBA_HOST_IN(A);              \
  MAMBA_HOST_IN(D);              \
  MAMBA_HOST_IN(out_proj);       \
  MAMBA_HOST_IN(norm_f);         \
  MAMBA_HOST_IN(output);         \
  MAMBA_HOST_IN(conv);           \
  MAMBA_HOST_IN(ssm);            \
  MAMBA_HOST_OUT(logits);        \
  MAMBA_HOST_OUT(conv_after);    \
  MAMBA_HOST_OUT(ssm_after);     \
  MAMBA_HOST_BOOL(kHasConvBias); \
  MAMBA_HOST_INT(kEpsBits)

template <typename T, int kThreads, int kFew, int kInRowTiles, int kInRowParts, int kInTiles, int kOutRowTiles,
          int kOutRowParts, int kOutTiles, int kWordTiles, int kWordRowTiles, int kSequences, bool kWhole>
void model(const Launch& launch) {
  using Residual = float;
  constexpr int kTaps = 4;
  constexpr int kPer = 4;
  constexpr int kSquares = 2;
  MAMBA_HOST_MODEL;
  MAMBA_HOST_OUT(h);
  MAMBA_HOST_OUT(numbers);
  MAMBA_HOST_OUT(floats);
  MAMBA_HOST_INT(kAhead);
  constexpr bool kDots = kFew == 1 && sizeof(T) == 4;
  MAMBA_HOST_BOOL(kEarly);
#include "mamba/ops/model_step/gpu_step.h"
// What follows on it.
#include "mamba/ops/model_step/gpu_numbers.h"
// And on that.
#include "mamba/ops/model_step/gpu_step_phases.h"
}

void in_pairs(const Launch& launch) {
  using T = mx::bfloat16_t;
  using Residual = float;
  constexpr int kPairs = 8;
  constexpr int kRank = 32;
  MAMBA_HOST_MODEL;
  MAMBA_HOST_IN(counter);
  MAMBA_HOST_IN(maps);
  MAMBA_HOST_OUT(numbers);
  MAMBA_HOST_OUT(floats);
  MAMBA_HOST_INT(kInFlight);
  MAMBA_HOST_INT(kRoom);
#include "mamba/ops/model_step/gpu_pairs.h"
// What follows on it.
#include "mamba/ops/model_step/gpu_pairs_parts.h"
// And on that.
#include "mamba/ops/model_step/gpu_pairs_phases.h"
}

template <typename T>
void one(const Launch& launch) {
  using Residual = float;
  constexpr int kThreads = 64;
  constexpr int kTaps = 4;
  MAMBA_HOST_MODEL;
  MAMBA_HOST_OUT(mail);
  MAMBA_HOST_INT(kSlot);
  MAMBA_HOST_INT(kSlots);
  MAMBA_HOST_INT(kInFlight);
  MAMBA_HOST_INT(kBringers);
  MAMBA_HOST_INT(kPause);
  MAMBA_HOST_INT(kRoom);
  MAMBA_HOST_INT(kOwn);
  MAMBA_HOST_INT(kRows);
  MAMBA_HOST_INT(kWidth);
  MAMBA_HOST_INT(kChannels);
  MAMBA_HOST_INT(kStates);
  MAMBA_HOST_INT(kRank);
  MAMBA_HOST_INT(kNormSize);
  MAMBA_HOST_INT(kConvSize);
#include "mamba/ops/model_step/gpu_one.h"
// What follows on it.
#include "mamba/ops/model_step/gpu_one_phases.h"
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

template <typename T>
void model_of_many(const Launch& launch) {
  using Residual = float;
  constexpr step::ManyLaunch kLaunch = step::kHostManyLaunch;
  constexpr int kThreads = kLaunch.threads;
  constexpr int kInRowParts = kLaunch.in_row_parts;
  constexpr int kInTiles = kLaunch.in_tiles;
  constexpr int kInAhead = kLaunch.in_ahead;
  constexpr int kOutRowParts = kLaunch.out_row_parts;
  constexpr int kOutTiles = kLaunch.out_tiles;
  constexpr int kOutAhead = kLaunch.out_ahead;
  constexpr int kWordRowParts = kLaunch.word_row_parts;
  constexpr int kWordTiles = kLaunch.word_tiles;
  constexpr int kWordAhead = kLaunch.word_ahead;
  constexpr int kSequences = kLaunch.sequences;
  constexpr int kSlots = kLaunch.slots;
  constexpr int kSlotLines = kLaunch.slot_lines;
  constexpr int kSquares = 2;
  constexpr int kMostRows = 128;
  constexpr int kMostTasks = 64;
  constexpr int kFillers = kLaunch.fillers;
  constexpr int kInBlocks = kLaunch.in_blocks;
  constexpr int kOutBlocks = kLaunch.out_blocks;
  constexpr int kWordBlocks = kLaunch.word_blocks;
  constexpr int kInFlight = kLaunch.in_flight;
  constexpr int kTaps = 4;
  MAMBA_HOST_MODEL;
  MAMBA_HOST_OUT(h);
  MAMBA_HOST_OUT(numbers);
  MAMBA_HOST_OUT(floats);
#include "mamba/ops/model_step/gpu_many.h"
// What follows on it.
#include "mamba/ops/model_step/gpu_numbers.h"
// And on that.
#include "mamba/ops/model_step/gpu_many_phases.h"
}

void run_model_of_many(const Launch& launch) {
  const auto is = [&](const char* name, int value) { return launch.constant(name) == value; };
  const step::ManyLaunch& only = step::kHostManyLaunch;
  check(is("kThreads", only.threads) && is("kInRowParts", only.in_row_parts) && is("kInTiles", only.in_tiles) &&
            is("kOutRowParts", only.out_row_parts) && is("kOutTiles", only.out_tiles) &&
            is("kWordRowParts", only.word_row_parts) && is("kWordTiles", only.word_tiles) &&
            is("kSequences", only.sequences) && is("kSlots", only.slots) && is("kSlotLines", only.slot_lines) &&
            is("kTaps", 4) && launch.constant("kSquares") <= 2,
        "the host has no models cut like that");
  host::run(is("T", static_cast<int>(mx::Dtype::Val::bfloat16)) ? model_of_many<mx::bfloat16_t> : model_of_many<float>,
            launch);
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
  gpu::set_host_body("mamba_model_step_many", gpu::dialect::run_model_of_many);
  gpu::set_host_body("mamba_model_step_pairs", [](const gpu::host::Launch& launch) {
    check(launch.constant("kPairs") == 8 && launch.constant("kRank") == 32, "the host's pairs are 8, for a rank of 32");
    gpu::host::run(gpu::dialect::in_pairs, launch);
  });
  gpu::set_host_body("mamba_model_step_one", [](const gpu::host::Launch& launch) {
    namespace dialect = gpu::dialect;
    check(launch.constant("kThreads") == 64 && launch.constant("kTaps") == 4,
          "the host's models have groups of 64 threads and 4 taps");
    const bool wide = launch.constant("T") != static_cast<int>(mlx::core::Dtype::Val::bfloat16);
    gpu::host::run(wide ? dialect::one<float> : dialect::one<mlx::core::bfloat16_t>, launch);
  });
}

}  // namespace mamba::ops::step
