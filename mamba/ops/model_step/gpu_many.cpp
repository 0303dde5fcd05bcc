#include <algorithm>
#include <bit>

#include "mamba/ops/model_step/gpu.h"

namespace mamba::embedded {
std::string_view gpu_model_many();
std::string_view gpu_model_many_phases();
std::string_view gpu_model_numbers();
}  // namespace mamba::embedded

namespace mamba::ops::step {

namespace mx = mlx::core;

namespace {

constexpr int kWarps = kThreads / 32;
constexpr int kFillers = 4;   // SIMD groups that fill slots
constexpr int kInFlight = 2;  // slots
constexpr int kLineBytes = 16;
constexpr int kBlockBytes = 4 * kLineBytes;
constexpr int kStates = 16;  // of a channel
constexpr int kMostTiles = 8;
constexpr int kMostSlotLines = 2304;  // 36 KB
constexpr int kLeastPiece = 512;      // bytes of a row that are copied at once: of fewer, copies are too many
constexpr int kMostSlots = 4;         // more fill memory's queues where others wait
constexpr int kMostBlocks = 2;        // of 16-bit numbers of x that a lane has registers for
constexpr int kMostSequences = 6;     // whose states it has registers for
constexpr int kMostRows = 128;
constexpr int kMostTasks = 64;  // of a group: a layer's and the words'

struct Cut {
  int row_parts = 1;
  int tiles = 1;
  int blocks = 1;  // of a slot, to a SIMD group
};

// As gpu/ring.h has them in a slot.
int lines_of(const Cut& cut) {
  const int lines = 4 * (kWarps / cut.row_parts) * cut.blocks;
  return 8 * cut.tiles * (lines % 8 == 0 ? lines + 4 : lines);
}

// How a group cuts a product of `columns` rows of weights: what it reads of both sides and a fixed cost, in rows, are
// the least over the turns that all groups take.
Cut best_cut(int columns, int batch, int groups, int most_tiles) {
  constexpr int kFixed = 16;
  Cut best;
  int least = 0;
  for (int row_parts = 1; row_parts <= 4; row_parts *= 2) {
    for (int tiles = 1; tiles <= most_tiles; ++tiles) {
      if (kWarps % ceil_div(8 * tiles, 32) != 0 || lines_of({row_parts, tiles}) > kMostSlotLines) {
        continue;
      }
      const int tasks = ceil_div(columns, 8 * tiles) * ceil_div(batch, 16 * row_parts);
      const int cost = ceil_div(tasks, groups) * (16 * row_parts + 8 * tiles + kFixed);
      if (least == 0 || cost < least) {
        best = {row_parts, tiles};
        least = cost;
      }
    }
  }
  return best;
}

// Slots whose lines of x are asked for together.
int ahead_of(const Cut& cut, int size) {
  return size == 4 ? 1 : kMostBlocks / cut.blocks;
}

int squares_of(const ModelStepWeights& w, const ManyLaunch& launch) {
  return ceil_div(w.out_proj.shape(1), 8 * launch.out_tiles) * ceil_div(8 * launch.out_tiles, 32);
}

}  // namespace

std::optional<ManyLaunch> best_many_launch(const ModelStepWeights& w, int batch, int groups, int shared_bytes) {
  const int size = static_cast<int>(w.in_proj.dtype().size());
  const int width = w.embeddings.shape(1);
  const int channels = w.A.shape(1);
  if (batch <= 8 || batch > kMostRows || w.A.shape(2) != kStates || width * size % kBlockBytes != 0 ||
      channels * size % kBlockBytes != 0 || w.dt_proj.shape(2) * size % kLineBytes != 0) {
    return std::nullopt;
  }
  ManyLaunch launch;
  launch.groups = groups;
  launch.threads = kThreads;
  launch.fillers = kFillers;
  launch.in_flight = kInFlight;
  Cut in = best_cut(w.in_proj.shape(1), batch, groups, kMostTiles);
  Cut out = best_cut(w.out_proj.shape(1), batch, groups, kMostTiles);
  Cut words = best_cut(w.output.shape(0), batch, groups, std::max(in.tiles, out.tiles));
  Cut* const cuts[] = {&in, &out, &words};
  for (Cut* cut : cuts) {
    if (kWarps / cut->row_parts * kBlockBytes < kLeastPiece) {
      cut->blocks = kMostBlocks;
    }
  }
  launch.slot_lines = std::max({lines_of(in), lines_of(out), lines_of(words), kThreads});
  for (Cut* cut : cuts) {
    if (lines_of({cut->row_parts, cut->tiles, kMostBlocks}) <= launch.slot_lines) {
      cut->blocks = kMostBlocks;
    }
  }
  launch.in_row_parts = in.row_parts;
  launch.in_tiles = in.tiles;
  launch.in_blocks = in.blocks;
  launch.in_ahead = ahead_of(in, size);
  launch.out_row_parts = out.row_parts;
  launch.out_tiles = out.tiles;
  launch.out_blocks = out.blocks;
  launch.out_ahead = ahead_of(out, size);
  launch.word_row_parts = words.row_parts;
  launch.word_tiles = words.tiles;
  launch.word_blocks = words.blocks;
  launch.word_ahead = ahead_of(words, size);
  const int pieces = ceil_div(channels, 8);
  const auto cost_of_states = [&](int sequences) {
    return ceil_div(pieces * ceil_div(batch, sequences), groups * kWarps) * sequences;
  };
  launch.sequences = 1;
  for (int more = 2; more <= std::min(batch, kMostSequences); ++more) {
    launch.sequences = cost_of_states(more) <= cost_of_states(launch.sequences) ? more : launch.sequences;
  }
  const auto tasks_of = [&](int columns, const Cut& cut) {
    return ceil_div(ceil_div(columns, 8 * cut.tiles) * ceil_div(batch, 16 * cut.row_parts), groups);
  };
  const int tasks = tasks_of(w.in_proj.shape(1), in) + tasks_of(w.out_proj.shape(1), out) +
                    tasks_of(w.output.shape(0), words) + cost_of_states(launch.sequences) / launch.sequences;
  const int staged = 8 * std::max({in.tiles, out.tiles, words.tiles}) * kWarps * 16 * 4;
  const int slot_bytes = launch.slot_lines * kLineBytes;
  launch.slots =
      std::min(kMostSlots, (shared_bytes - 4 * kMostRows - 16 * kMostTasks - 16 * kMostSlots - staged) / slot_bytes);
  launch.shared_bytes = staged + launch.slots * slot_bytes;
  const int slot_states = std::min(launch.slot_lines / kThreads, launch.sequences);
  if (tasks > kMostTasks || launch.slots < kMostBlocks || launch.slots <= ceil_div(launch.sequences, slot_states)) {
    return std::nullopt;
  }
  return launch;
}

ModelStepOutputs model_of_many(const mx::array& tokens, const mx::array& conv, const mx::array& ssm,
                               const ModelStepWeights& w, const ManyLaunch& launch, const mx::Stream& stream) {
  static const gpu::Kernel kernel = model_kernel(
      "mamba_model_step_many",
      gpu::joined({embedded::gpu_model_many(), embedded::gpu_model_numbers(), embedded::gpu_model_many_phases()}),
      kThreads + 32 * kFillers);
  const int squares = squares_of(w, launch);
  return launch_model(kernel, model_inputs(tokens, conv, ssm, w, stream), w, squares,
                      {{launch.groups, 1, 1}, launch.threads + 32 * launch.fillers, launch.shared_bytes},
                      {{"T", w.in_proj.dtype()},
                       {"Residual", w.residual_dtype},
                       {"kThreads", launch.threads},
                       {"kFillers", launch.fillers},
                       {"kInRowParts", launch.in_row_parts},
                       {"kInTiles", launch.in_tiles},
                       {"kInBlocks", launch.in_blocks},
                       {"kInAhead", launch.in_ahead},
                       {"kOutRowParts", launch.out_row_parts},
                       {"kOutTiles", launch.out_tiles},
                       {"kOutBlocks", launch.out_blocks},
                       {"kOutAhead", launch.out_ahead},
                       {"kWordRowParts", launch.word_row_parts},
                       {"kWordTiles", launch.word_tiles},
                       {"kWordBlocks", launch.word_blocks},
                       {"kWordAhead", launch.word_ahead},
                       {"kSequences", launch.sequences},
                       {"kInFlight", launch.in_flight},
                       {"kSlots", launch.slots},
                       {"kSlotLines", launch.slot_lines},
                       {"kSquares", ceil_div(squares, 32)},
                       {"kMostRows", kMostRows},
                       {"kMostTasks", kMostTasks},
                       {"kTaps", w.conv_weight.shape(2)},
                       {"kHasConvBias", w.conv_bias.has_value()},
                       {"kEpsBits", std::bit_cast<int>(w.eps)}},
                      stream);
}

}  // namespace mamba::ops::step
