#include "mamba/ops/model_step/gpu.h"

#include <mlx/backend/metal/metal.h>
#include <mlx/memory.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <atomic>
#include <bit>
#include <vector>

#include "mamba/ops/dispatch.h"
#include "mamba/ops/gpu/driver.h"
#include "mamba/ops/gpu/kernel.h"

namespace mamba::embedded {
std::string_view gpu_model_numbers();
std::string_view gpu_model_step();
std::string_view gpu_model_step_phases();
}  // namespace mamba::embedded

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

using step::ceil_div;
using step::kThreads;

constexpr int kRegisters = 512;  // of a lane's place in a multiprocessor, whose four parts share a group's SIMD groups
// What a lane has registers for: lines of both sides of a product at a time, and tiles of columns.
constexpr int kMostLines = 8;
constexpr int kMostTilesOfOne = 8;
constexpr int kMostWordTiles = 3;
constexpr int kMostStates = 16;  // of a lane, in registers
constexpr int kAheadBytes = 8 << 20;
constexpr size_t kEarlyBytes = 12 << 20;
// From more sequences on, a library's matrix products are worth their launches.
constexpr int kMostSequences = 128;

int multiprocessors() {
  static const int count = gpu::device_attribute(gpu::DeviceAttribute::kMultiprocessors);
  return count;
}

// Tiles are multiplied as compute capability 8 does it.
bool has_tiles() {
  static const bool has = gpu::device_attribute(gpu::DeviceAttribute::kMajor) >= 8;
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

// How a group cuts a product of `columns` rows of weights with `batch` rows: what its SIMD groups read of both sides,
// each for itself, and a fixed cost, are the least over the turns that all groups take. In rows, fitted to 12 cuts on
// an H100.
struct Cut {
  int row_tiles = 1;
  int row_parts = 1;
  int tiles = 1;
};
Cut best_cut(int columns, int batch, int groups, int few) {
  constexpr int kFixed = 16;
  Cut best;
  int least = 0;
  for (int row_tiles = 1; row_tiles <= 2; ++row_tiles) {
    for (int row_parts = 1; row_parts <= 2; ++row_parts) {
      const int rows = 16 * row_tiles * row_parts;
      for (int tiles = 1; tiles <= (few == 1 ? kMostTilesOfOne : kMostLines - 2 * row_tiles); ++tiles) {
        const int tasks = ceil_div(columns, 8 * tiles) * ceil_div(batch, rows);
        const int cost = ceil_div(tasks, groups) * (rows + 8 * tiles * row_parts + kFixed);
        if (least == 0 || cost < least) {
          best = {row_tiles, row_parts, tiles};
          least = cost;
        }
      }
    }
  }
  return best;
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

ModelLaunch best_launch(const ModelStepWeights& w, int batch, int groups) {
  ModelLaunch launch;
  launch.groups = groups;
  launch.threads = kThreads;
  launch.few = batch == 1 ? 1 : batch <= 8 ? 8 : 16;
  const Cut in = best_cut(w.in_proj.shape(1), batch, launch.groups, launch.few);
  const Cut out = best_cut(w.out_proj.shape(1), batch, launch.groups, launch.few);
  launch.in_row_tiles = in.row_tiles;
  launch.in_row_parts = in.row_parts;
  launch.in_tiles = in.tiles;
  launch.out_row_tiles = out.row_tiles;
  launch.out_row_parts = out.row_parts;
  launch.out_tiles = out.tiles;
  const int warps = launch.groups * launch.threads / 32;
  launch.word_row_tiles = batch <= 16 ? 1 : 2;
  const int row_tasks = ceil_div(batch, 16 * launch.word_row_tiles);
  launch.word_tiles = 1;
  const auto cost_of_words = [&](int tiles) {
    return ceil_div(ceil_div(w.output.shape(0), 8 * tiles) * row_tasks, warps) * tiles;
  };
  for (int tiles = 2; tiles <= kMostWordTiles; ++tiles) {
    launch.word_tiles = cost_of_words(tiles) <= cost_of_words(launch.word_tiles) ? tiles : launch.word_tiles;
  }
  // Sequences to a SIMD group in the state's step, whose states are in registers.
  const int pieces = ceil_div(w.A.shape(1), 8);
  const auto cost_of_states = [&](int sequences) {
    return ceil_div(pieces * ceil_div(batch, sequences), warps) * sequences;
  };
  launch.sequences = 1;
  for (int more = 2; more <= batch && more * ceil_div(w.A.shape(2), 4) <= kMostStates; ++more) {
    launch.sequences = cost_of_states(more) <= cost_of_states(launch.sequences) ? more : launch.sequences;
  }
  return launch;
}

gpu::Kernel model_kernel(std::string name, std::string_view source, int threads, bool in_pairs) {
  std::vector<std::string> inputs = {"tokens", "embeddings", "norm",    "in_proj", "conv_weight", "conv_bias",
                                     "x_proj", "dt_proj",    "dt_bias", "A",       "D",           "out_proj",
                                     "norm_f", "output",     "conv",    "ssm",     "counter"};
  std::vector<std::string> outputs = {"logits", "conv_after", "ssm_after", "numbers", "floats"};
  if (in_pairs) {
    inputs.emplace_back("maps");
  } else {
    outputs.insert(outputs.begin() + 3, "h");
  }
  return {std::move(name), source, std::move(inputs), std::move(outputs), kRegisters / ceil_div(threads, 128) / 8 * 8,
          in_pairs};
}

std::vector<mx::array> model_inputs(const mx::array& tokens, const mx::array& conv, const mx::array& ssm,
                                    const ModelStepWeights& w, const mx::Stream& stream) {
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
  return inputs;
}

ModelStepOutputs launch_model(const gpu::Kernel& kernel, const std::vector<mx::array>& inputs,
                              const ModelStepWeights& w, int parts, const gpu::Grid& grid,
                              const gpu::Constants& constants, const mx::Stream& stream) {
  const mx::array& conv = inputs[inputs.size() - 3];
  const mx::array& ssm = inputs[inputs.size() - 2];
  const int batch = ssm.shape(1);
  const int width = w.embeddings.shape(1);
  const mx::Dtype dtype = w.in_proj.dtype();
  const std::vector<mx::array> out =
      kernel(inputs,
             {{batch, w.output.shape(0)},
              conv.shape(),
              ssm.shape(),
              {batch, width},
              {batch, width + 3 * w.A.shape(1) + w.dt_proj.shape(2)},
              {batch, 2 * w.A.shape(2) + parts}},
             {mx::float32, dtype, mx::float32, w.residual_dtype, dtype, mx::float32}, grid, constants, stream);
  return {out[0], out[1], out[2]};
}

ModelStepOutputs model(const mx::array& tokens, const mx::array& conv, const mx::array& ssm, const ModelStepWeights& w,
                       const ModelLaunch& wanted, const mx::Stream& stream) {
  if (can_step_one(w, ssm, stream)) {
    return one(tokens, conv, ssm, w, {}, stream);
  }
  static const gpu::Kernel kernel = model_kernel(
      "mamba_model_step",
      gpu::joined({embedded::gpu_model_step(), embedded::gpu_model_numbers(), embedded::gpu_model_step_phases()}),
      kThreads);
  const int batch = ssm.shape(1);
  const int channels = w.A.shape(1);
  const int states = w.A.shape(2);
  const int width = w.embeddings.shape(1);
  const int rank = w.dt_proj.shape(2);
  const mx::Dtype dtype = w.in_proj.dtype();
  if (!on_cpu(stream)) {
    // Copies into shared memory that count their bytes came with compute capability 9.
    static const int shared_bytes = gpu::device_attribute(gpu::DeviceAttribute::kMajor) >= 9
                                        ? gpu::device_attribute(gpu::DeviceAttribute::kMostSharedOfAGroup)
                                        : 0;
    static const bool is_hopper = gpu::device_attribute(gpu::DeviceAttribute::kMajor) == 9 &&
                                  gpu::device_attribute(gpu::DeviceAttribute::kMinor) == 0;
    if (is_hopper && can_step_in_pairs(w, conv, ssm, multiprocessors(), shared_bytes)) {
      const std::optional<ModelStepOutputs> outputs = model_in_pairs(tokens, conv, ssm, w, stream);
      if (outputs) {
        return *outputs;
      }
    }
    const std::optional<ManyLaunch> many = best_many_launch(w, batch, multiprocessors(), shared_bytes);
    if (many) {
      return model_of_many(tokens, conv, ssm, w, *many, stream);
    }
  }
  const ModelLaunch launch =
      on_cpu(stream) ? (wanted.groups > 0 ? wanted : kHostLaunch) : best_launch(w, batch, multiprocessors());
  const int squares = ceil_div(width, 8 * launch.out_tiles) * ceil_div(8 * launch.out_tiles, 32);
  const size_t in_bytes = w.in_proj.nbytes() / static_cast<size_t>(w.in_proj.shape(0));
  const auto whole = [&](int length) { return length * static_cast<int>(dtype.size()) % 16 == 0; };
  return launch_model(kernel, model_inputs(tokens, conv, ssm, w, stream), w, squares,
                      {{launch.groups, 1, 1}, launch.threads},
                      {{"T", dtype},
                       {"Residual", w.residual_dtype},
                       {"kThreads", launch.threads},
                       {"kFew", launch.few},
                       {"kInRowTiles", launch.in_row_tiles},
                       {"kInRowParts", launch.in_row_parts},
                       {"kInTiles", launch.in_tiles},
                       {"kOutRowTiles", launch.out_row_tiles},
                       {"kOutRowParts", launch.out_row_parts},
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
                       {"kDots", launch.few == 1 && dtype == mx::float32},
                       {"kEarly", launch.few <= 8 && in_bytes <= kEarlyBytes},
                       {"kAhead", kAheadBytes / static_cast<int>(dtype.size())}},
                      stream);
}

}  // namespace step

}  // namespace mamba::ops
