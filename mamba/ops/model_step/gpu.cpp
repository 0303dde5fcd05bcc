#include "mamba/ops/model_step/gpu.h"

#include <mlx/backend/metal/metal.h>
#include <mlx/memory.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <vector>

#include "mamba/ops/dispatch.h"
#include "mamba/ops/gpu/driver.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::embedded {
std::string_view gpu_model_step();
}  // namespace mamba::embedded

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

constexpr int kThreads = 512;
constexpr int kRegisters = 65536;  // of a multiprocessor, which has one group
// Tiles of columns to a group: what shared memory holds and, of one sequence, registers.
constexpr int kMostTiles = 3;
constexpr int kMostTilesOfOne = 8;
constexpr int kAheadBytes = 8 << 20;
// From more sequences on, a library's matrix products are worth their launches.
constexpr int kMostSequences = 128;

int multiprocessors() {
  static const int count = gpu::device_attribute(16);
  return count;
}

// Tiles are multiplied as compute capability 8 does it.
bool has_tiles() {
  static const bool has = gpu::device_attribute(75) >= 8;
  return has;
}

// What the groups of a launch count their arrivals in: zero once, for good. In device memory, which small arrays and
// memory that the host has had are not.
const mx::array& counter(const mx::Stream& stream) {
  static const mx::array zeros = [&] {
    mx::clear_cache();
    mx::array made = mx::contiguous(mx::zeros({1 << 16}, mx::int32, stream), false, stream);
    made.eval();
    return made;
  }();
  return zeros;
}

int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}

// How many tiles of 8 of `rows` a group takes at once, so that the slowest group has the fewest.
int best_tiles(int rows, int passes, int groups, int most) {
  int best = 1;
  int least = 0;
  for (int tiles = 1; tiles <= most; ++tiles) {
    const int cost = ceil_div(ceil_div(rows, 8 * tiles) * passes, groups) * tiles;
    if (least == 0 || cost <= least) {
      best = tiles;
      least = cost;
    }
  }
  return best;
}

step::ModelLaunch chosen(step::ModelLaunch launch, const ModelStepWeights& w, int batch, const mx::Stream& stream) {
  const auto fill = [](int& field, int value) { field = field > 0 ? field : value; };
  if (on_cpu(stream)) {
    return launch.groups > 0 ? launch : step::kHostLaunch;
  }
  fill(launch.groups, multiprocessors());
  fill(launch.threads, kThreads);
  fill(launch.row_tiles, batch <= 32 ? 1 : 2);
  fill(launch.row_parts, batch <= 16 ? 1 : 2);
  const int passes = ceil_div(batch, 16 * launch.row_tiles * launch.row_parts);
  fill(launch.few, batch == 1 ? 1 : batch <= 8 ? 8 : 16);
  const int most = batch == 1 ? kMostTilesOfOne : kMostTiles;
  fill(launch.in_tiles, best_tiles(w.in_proj.shape(1), passes, launch.groups, most));
  fill(launch.out_tiles, best_tiles(w.out_proj.shape(1), passes, launch.groups, most));
  fill(launch.word_row_tiles, batch <= 16 ? 1 : 2);
  const int row_tasks = ceil_div(batch, 16 * launch.word_row_tiles);
  const int warps = launch.groups * launch.threads / 32;
  fill(launch.word_tiles, best_tiles(w.output.shape(0), row_tasks, warps, kMostTiles));
  // Sequences to a SIMD group in the state's step: as few as give each group a turn. Their states are in registers.
  const int per = ceil_div(w.A.shape(2), 4);
  int sequences = 1;
  while ((sequences + 1) * per <= 24 && ceil_div(w.A.shape(1), 8) * ceil_div(batch, sequences) > warps) {
    ++sequences;
  }
  fill(launch.sequences, sequences);
  return launch;
}

}  // namespace

bool can_step_model(int batch, const mx::Stream& stream) {
  if (on_cpu(stream) || mx::metal::is_available() || batch > kMostSequences || multiprocessors() == 0 || !has_tiles()) {
    return false;
  }
  // Two launches at once that each have part of the device would wait for ever: the first stream to ask has it.
  static std::atomic<int> owner{-1};
  int none = -1;
  return owner.compare_exchange_strong(none, stream.index) || none == stream.index;
}

namespace step {

ModelStepOutputs model(const mx::array& tokens, const mx::array& conv, const mx::array& ssm, const ModelStepWeights& w,
                       const ModelLaunch& wanted, const mx::Stream& stream) {
  static const gpu::Kernel kernel(
      "mamba_model_step", embedded::gpu_model_step(),
      {"tokens", "embeddings", "norm", "in_proj", "conv_weight", "conv_bias", "x_proj", "dt_proj", "dt_bias", "A", "D",
       "out_proj", "norm_f", "output", "conv", "ssm", "counter"},
      {"logits", "conv_after", "ssm_after", "h", "numbers", "floats"}, kRegisters / kThreads);
  const int batch = ssm.shape(1);
  const int channels = w.A.shape(1);
  const int states = w.A.shape(2);
  const int width = w.embeddings.shape(1);
  const int rank = w.dt_proj.shape(2);
  const mx::Dtype dtype = w.in_proj.dtype();
  const ModelLaunch launch = chosen(wanted, w, batch, stream);
  const int squares = ceil_div(width, 8 * launch.out_tiles) * ceil_div(8 * launch.out_tiles, 32);
  std::vector<mx::array> inputs = {tokens,
                                   w.embeddings,
                                   w.norm,
                                   w.in_proj,
                                   w.conv_weight,
                                   w.conv_bias.value_or(w.D),
                                   w.x_proj,
                                   w.dt_proj,
                                   w.dt_bias,
                                   w.A,
                                   w.D,
                                   w.out_proj,
                                   w.norm_f,
                                   w.output,
                                   conv,
                                   ssm,
                                   counter(stream)};
  for (size_t i = 1; i < inputs.size(); ++i) {
    inputs[i] = gpu::contiguous(inputs[i], stream);
  }
  const auto whole = [&](int length) { return length * static_cast<int>(dtype.size()) % 16 == 0; };
  const std::vector<mx::array> out = kernel(
      inputs,
      {{batch, w.output.shape(0)},
       conv.shape(),
       ssm.shape(),
       {batch, width},
       {batch, width + 3 * channels + rank},
       {batch, 2 * states + squares}},
      {mx::float32, dtype, mx::float32, w.residual_dtype, dtype, mx::float32}, {{launch.groups, 1, 1}, launch.threads},
      {{"T", dtype},
       {"Residual", w.residual_dtype},
       {"kThreads", launch.threads},
       {"kFew", launch.few},
       {"kRowTiles", launch.row_tiles},
       {"kRowParts", launch.row_parts},
       {"kInTiles", launch.in_tiles},
       {"kOutTiles", launch.out_tiles},
       {"kWordTiles", launch.word_tiles},
       {"kWordRowTiles", launch.word_row_tiles},
       {"kSequences", launch.sequences},
       {"kSquares", ceil_div(squares, 32)},
       {"kTaps", w.conv_weight.shape(2)},
       {"kPer", ceil_div(states, 4)},
       {"kWhole", whole(width) && whole(channels) && whole(rank) && states % 16 == 0},
       {"kHasConvBias", w.conv_bias.has_value()},
       {"kEpsBits", std::bit_cast<int>(w.eps)},
       {"kAhead", kAheadBytes / static_cast<int>(dtype.size())}},
      stream);
  return {out[0], out[1], out[2]};
}

}  // namespace step

}  // namespace mamba::ops
