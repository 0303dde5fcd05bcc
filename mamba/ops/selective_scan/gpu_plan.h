// How the scan's kernels on GPUs are dealt out. Private to this folder.
#pragma once

#include <cstdint>

namespace mamba::ops::scan {

// For tests: as sizes ask for, or, whatever the size, as large inputs have it or those of many sequences, which are not
// cut into chunks.
enum class Dealing { kBySize, kLarge, kVeryLarge, kWholeSequences };

// A group's threads: `lanes` of them share a channel, or `each` neighbouring ones, and each keeps `per_lane` of a
// channel's states. Positions are worked on in segments, at whose beginnings states are kept for the backward pass, and
// in tiles of `steps`.
struct Shape {
  int lanes, per_lane, threads, segment;
  int each = 1;
  int steps = 8;

  // Of a group.
  int channels() const { return threads / lanes * each; }
  // Groups for all channels.
  int blocks(int channels) const;
  bool operator==(const Shape&) const = default;
};

// For 9 to 16 states. Backwards kSixSimds does what kFourLanes do: as many threads fit, and shares of B's and C's
// gradients are fewer. Two channels to a lane share what it reads of B and C, and their own numbers of 16 bits come in
// one word. Those of 32 bits would take more registers than there are for as many threads.
inline constexpr Shape kFourLanes = {.lanes = 4, .per_lane = 4, .threads = 128, .segment = 32};
inline constexpr Shape kSixSimds = {.lanes = 4, .per_lane = 4, .threads = 192, .segment = 32};
inline constexpr Shape kTwoLanes = {.lanes = 2, .per_lane = 8, .threads = 128, .segment = 32};
inline constexpr Shape kPairs = {.lanes = 2, .per_lane = 8, .threads = 64, .segment = 32, .each = 2};
inline constexpr Shape kWhole = {.lanes = 1, .per_lane = 16, .threads = 64, .segment = 32, .each = 2, .steps = 4};

// Of a backward pass in chunks, whose groups are many: three of them instead of two on a multiprocessor. Without chunks
// there are too few for that.
inline constexpr Shape kShortTiles = {.lanes = 2, .per_lane = 8, .threads = 128, .segment = 32, .each = 1, .steps = 4};

Shape shape_of(int batch, int length, int channels, int states, Dealing dealing);

// In how many chunks, worked on at once, each sequence is cut: 1 where batch and channels alone fill a GPU.
int chunks_of(int batch, int length, int channels, const Shape& shape);

// Of these `chunks` as many as are worked on in the least time by `groups` for each, of which a large GPU has room for
// `room` at once: where chunks are long there may be up to half as many.
int even_chunks(int length, const Shape& shape, int chunks, int groups, int room);

// Of the backward pass, where shape_of() gives `shape`.
Shape backward_shape_of(const Shape& shape, int chunks);

// Of the forward pass, which needs no sums over channels, where shape_of() gives `shape` and inputs have
// `bytes` bytes a number.
Shape forward_shape_of(const Shape& shape, int batch, int channels, int chunks, int bytes, Dealing dealing);

// Of what finds out what chunks add to a state, whichever way, where the forward pass has `forward`.
Shape local_shape_of(const Shape& forward);

int divide_up(int a, int b);

}  // namespace mamba::ops::scan
