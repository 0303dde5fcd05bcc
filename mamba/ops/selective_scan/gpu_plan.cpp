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

// Threads that keep a large GPU busy when each does more: two lanes to a channel instead of four, or two channels to a
// lane; and when a lane has all states of two channels.
constexpr int64_t kFewestThreads = 32768;
constexpr int64_t kFewestWholeThreads = 49152;

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
  const bool large =
      dealing == Dealing::kLarge || dealing == Dealing::kVeryLarge || int64_t{batch} * length * channels >= kLarge;
  if (states <= 16) return large ? kTwoLanes : kFourLanes;
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

int even_chunks(int length, const Shape& shape, int chunks, int groups, int room) {
  const int segments = divide_up(length, shape.segment);
  const int fewest = divide_up(segments, chunks);
  if (chunks == 1 || fewest * shape.segment < kLongChunk) {
    return chunks;
  }
  int best = fewest;
  double least = 0;
  for (int of_chunk = fewest; of_chunk <= 2 * fewest; ++of_chunk) {
    const int whole = segments / of_chunk;
    const int turns = divide_up(whole * groups, room);
    // What is left over runs next to others, or alone and then several times as fast.
    const bool is_alone = whole * groups + groups > turns * room;
    const double time = turns * of_chunk + (is_alone ? segments % of_chunk / 3.0 : 0.0);
    if (of_chunk == fewest || time < least) {
      best = of_chunk;
      least = time;
    }
  }
  return divide_up(segments, best);
}

Shape backward_shape_of(const Shape& shape, int chunks) {
  if (chunks > 1 && (shape == kTwoLanes || shape == kFourLanes)) {
    return kShortTiles;
  }
  return shape == kFourLanes ? kSixSimds : shape;
}

Shape forward_shape_of(const Shape& shape, int batch, int channels, int chunks, int bytes, Dealing dealing) {
  if (shape != kFourLanes && shape != kTwoLanes) {
    return shape;
  }
  const auto enough = [&](const Shape& of, int64_t fewest) {
    return int64_t{batch} * chunks * of.blocks(channels) * of.threads >= fewest;
  };
  if (bytes == 2) {
    if (dealing == Dealing::kVeryLarge || enough(kWhole, kFewestWholeThreads)) return kWhole;
    if (dealing == Dealing::kLarge || enough(kPairs, kFewestThreads)) return kPairs;
  }
  return enough(kTwoLanes, kFewestThreads) ? kTwoLanes : shape;
}

Shape local_shape_of(const Shape& forward) {
  return forward == kWhole ? kPairs : forward;
}

}  // namespace mamba::ops::scan
