// One sequence's step as one stream of weights (gpu_one.h).
#include <mlx/ops.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/gpu/driver.h"
#include "mamba/ops/gpu/kernel.h"
#include "mamba/ops/model_step/gpu.h"

namespace mamba::embedded {
std::string_view gpu_model_one();
std::string_view gpu_model_one_phases();
}  // namespace mamba::embedded

namespace mamba::ops::step {

namespace mx = mlx::core;

namespace {

// SIMD groups more bring weights: one alone needs 0.24 us for a piece, which may be longer than memory does.
constexpr int kBringers = 3;
constexpr int kRegisters = 96;    // of 65536
constexpr int kSlotBytes = 4096;  // at most
constexpr int kMostSlotsOfOne = 63;
// As much as memory needs to be busy, latency times bandwidth of a multiprocessor, where it is busy all the time.
constexpr int kInFlightBytes = 48 << 10;

// Of threads that wait for other groups, ns: fitted on an H100.
constexpr int kPause = 300;
constexpr int kShortPause = 100;

// Bytes of shared memory: of what a launch asks for (kRoom) without the rings, and of what the kernel names by itself.
struct Shared {
  int brought = 0;
  int named = 0;
};
Shared shared_of(const ModelStepWeights& w, int groups) {
  const int size = static_cast<int>(w.in_proj.dtype().size());
  const int channels = w.A.shape(1);
  const int states = w.A.shape(2);
  const int rank = w.dt_proj.shape(2);
  const int own = ceil_div(channels, groups);
  const int rows = ceil_div(rank + 2 * states, groups);
  const int numbers = w.embeddings.shape(1) + channels + rows * channels + own * rank;
  const int warps = kThreads / 32;
  return {.brought = numbers * size + own * states * 8,
          .named = 4 * (4 * own + rank + 2 * states + warps + rows * warps) + 16 * (kMostSlotsOfOne + 1)};
}

// Slots divide rows evenly where they can.
int slot_of(int width, int size) {
  const int lines = width * size / 16;
  return ceil_div(lines, ceil_div(width * size, kSlotBytes)) * 16 / size;
}

OneLaunch launch_here(const ModelStepWeights& w) {
  static const int multiprocessors = gpu::device_attribute(gpu::DeviceAttribute::kMultiprocessors);
  static const int most = gpu::device_attribute(gpu::DeviceAttribute::kMostSharedOfAGroup);
  return best_one(w, multiprocessors, most);
}

}  // namespace

OneLaunch best_one(const ModelStepWeights& w, int multiprocessors, int most) {
  OneLaunch launch;
  launch.threads = kThreads;
  launch.groups = std::min({multiprocessors, w.A.shape(1), w.embeddings.shape(1)});
  if (launch.groups < 1) {
    return {};
  }
  const int size = static_cast<int>(w.in_proj.dtype().size());
  launch.slot = slot_of(w.embeddings.shape(1), size);
  const Shared shared = shared_of(w, launch.groups);
  constexpr int kAligned = 512;  // what alignment may take
  const int ring = most - shared.brought - shared.named - kAligned;
  launch.bringers = kBringers;
  // Each bringer has its own slots.
  launch.slots = std::clamp(ring / (launch.slot * size), 0, kMostSlotsOfOne) / launch.bringers * launch.bringers;
  launch.in_flight =
      std::clamp(kInFlightBytes / (launch.slot * size), launch.bringers, std::max(launch.slots, launch.bringers)) /
      launch.bringers * launch.bringers;
  // A layer that fits into the ring is there before it is waited for.
  const bool busy = ceil_div(3 * w.A.shape(1), launch.groups) * w.embeddings.shape(1) > launch.slots * launch.slot;
  launch.pause = busy ? kShortPause : kPause;
  // A row of each SIMD group fits into the ring, and each thread of a group has one of its channels, and one of its
  // rows.
  const int longest = std::max(w.A.shape(1), w.embeddings.shape(1));
  const bool fits = launch.slots >= std::max(launch.in_flight, kThreads / 32 * ceil_div(longest, launch.slot)) &&
                    ceil_div(longest, launch.groups) <= kThreads;
  return fits ? launch : OneLaunch();
}

bool can_step_one(const ModelStepWeights& w, const mx::array& ssm, const mx::Stream& stream) {
  constexpr int kOldest = 9;
  static const int major = gpu::device_attribute(gpu::DeviceAttribute::kMajor);
  const int size = static_cast<int>(w.in_proj.dtype().size());
  const auto whole = [&](int length) { return length * size % 16 == 0; };
  if (ssm.shape(1) != 1 || !whole(w.embeddings.shape(1)) || !whole(w.A.shape(1)) || !whole(w.dt_proj.shape(2)) ||
      w.A.shape(2) % 16 != 0 || w.A.dtype() != mx::float32 || ssm.dtype() != mx::float32) {
    return false;
  }
  if (on_cpu(stream) || major < kOldest) {
    return false;
  }
  return launch_here(w).groups > 0;
}

ModelStepOutputs one(const mx::array& tokens, const mx::array& conv, const mx::array& ssm, const ModelStepWeights& w,
                     const OneLaunch& wanted, const mx::Stream& stream) {
  static const gpu::Kernel kernel(
      "mamba_model_step_one", gpu::joined({embedded::gpu_model_one(), embedded::gpu_model_one_phases()}),
      {"tokens", "embeddings", "norm", "in_proj", "conv_weight", "conv_bias", "x_proj", "dt_proj", "dt_bias", "A", "D",
       "out_proj", "norm_f", "output", "conv", "ssm", "counter"},
      {"logits", "conv_after", "ssm_after", "mail"}, kRegisters);
  const int channels = w.A.shape(1);
  const int states = w.A.shape(2);
  const int width = w.embeddings.shape(1);
  const int rank = w.dt_proj.shape(2);
  const mx::Dtype dtype = w.in_proj.dtype();
  const OneLaunch launch = wanted.groups > 0 ? wanted : launch_here(w);
  const int room = shared_of(w, launch.groups).brought + launch.slots * launch.slot * static_cast<int>(dtype.size());
  const std::vector<mx::array> out =
      kernel(model_inputs(tokens, conv, ssm, w, stream),
             {{1, w.output.shape(0)}, conv.shape(), ssm.shape(), {2 * (width + 2 * channels + rank + 2 * states)}},
             {mx::float32, dtype, mx::float32, mx::float32},
             {{launch.groups, 1, 1}, launch.threads + 32 * (launch.bringers + 1), room},
             {{"T", dtype},
              {"Residual", w.residual_dtype},
              {"kThreads", launch.threads},
              {"kSlot", launch.slot},
              {"kSlots", launch.slots},
              {"kInFlight", launch.in_flight},
              {"kBringers", launch.bringers},
              {"kPause", launch.pause},
              {"kRoom", room},
              {"kOwn", ceil_div(channels, launch.groups)},
              {"kRows", ceil_div(rank + 2 * states, launch.groups)},
              {"kWidth", width},
              {"kChannels", channels},
              {"kStates", states},
              {"kRank", rank},
              {"kTaps", w.conv_weight.shape(2)},
              {"kNormSize", static_cast<int>(w.norm.dtype().size())},
              {"kConvSize", static_cast<int>(w.conv_weight.dtype().size())},
              {"kHasConvBias", w.conv_bias.has_value()},
              {"kEpsBits", std::bit_cast<int>(w.eps)}},
             stream);
  return {out[0], out[1], out[2]};
}

}  // namespace mamba::ops::step
