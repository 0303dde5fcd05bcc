#include "mamba/ops/selective_scan/gpu_plan.h"

#include <algorithm>

namespace mamba::ops::scan {

namespace {

// Threads that keep a large GPU busy, and positions of a chunk that make the work around it small.
constexpr int64_t kWantedThreads = 98304;
constexpr int kLongChunk = 512;

// Numbers from which on two lanes to a channel are faster than four: they do less work around the recurrence, and there
// are enough of them to fill a GPU, if need be with chunks.
constexpr int64_t kLarge = 32 << 20;

// Threads that keep a large GPU busy when each has two channels.
constexpr int64_t kFewestPairThreads = 32768;

}  // namespace

int divide_up(int a, int b) {
  return (a + b - 1) / b;
}

int Shape::blocks(int channels) const {
  return divide_up(channels * lanes, threads * each);
}

Shape shape_of(int batch, int length, int channels, int states, Dealing dealing) {
  // Shared memory bounds segment and threads: gpu_backward.h needs the most.
  if (states <= 4) return {1, 4, 64, 32};
  if (states <= 8) return {2, 4, 128, 32};
  const bool large = dealing == Dealing::kLarge || int64_t{batch} * length * channels >= kLarge;
  if (states <= 16 && large) return {2, 8, 128, 32};
  if (states <= 16) return {4, 4, 128, 32};
  if (states <= 32) return {4, 8, 64, 32};
  if (states <= 64) return {8, 8, 128, 8};
  if (states <= 128) return {8, 16, 64, 8};
  return {8, 32, 32, 8};
}

int chunks_of(int batch, int length, int channels, const Shape& shape) {
  const int64_t threads = int64_t{batch} * shape.blocks(channels) * shape.threads;
  const int segments = std::max(1, divide_up(length, shape.segment));
  if (threads * 2 >= kWantedThreads) {
    return 1;
  }
  const int64_t enough = std::max<int64_t>(kWantedThreads / threads, length / kLongChunk);
  const int wanted = static_cast<int>(std::clamp<int64_t>(enough, 1, segments));
  return divide_up(segments, divide_up(segments, wanted));
}

Shape forward_shape_of(const Shape& shape, int batch, int channels, int chunks, int bytes, Dealing dealing) {
  // Two channels to a lane share what it reads of B and C, and their own numbers of 16 bits come in one word. Those of
  // 32 bits would take more registers than there are for as many threads.
  const Shape pairs = {.lanes = 2, .per_lane = 8, .threads = 64, .segment = shape.segment, .each = 2};
  if (shape.lanes != pairs.lanes || shape.per_lane != pairs.per_lane || bytes != 2) {
    return shape;
  }
  const int64_t threads = int64_t{batch} * chunks * pairs.blocks(channels) * pairs.threads;
  return dealing == Dealing::kLarge || threads >= kFewestPairThreads ? pairs : shape;
}

}  // namespace mamba::ops::scan
