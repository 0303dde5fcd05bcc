// How the scan's kernels on GPUs are dealt out. Private to this folder.
#pragma once

#include <cstdint>

namespace mamba::ops::scan {

// For tests: as sizes ask for, or as large inputs have it, whatever the size.
enum class Dealing { kBySize, kLarge };

// A group's threads: `lanes` of them share a channel, or `each` neighbouring ones, and each keeps `per_lane` of a
// channel's states. Positions are worked on in segments, at whose beginnings states are kept for the backward pass.
struct Shape {
  int lanes, per_lane, threads, segment;
  int each = 1;

  // Groups for all channels.
  int blocks(int channels) const;
};
Shape shape_of(int batch, int length, int channels, int states, Dealing dealing);

// In how many chunks, worked on at once, each sequence is cut: 1 where batch and channels alone fill a GPU.
int chunks_of(int batch, int length, int channels, const Shape& shape);

// Of the passes that need no sums over channels, where `shape` is that of the backward pass and inputs have `bytes`
// bytes a number.
Shape forward_shape_of(const Shape& shape, int batch, int channels, int chunks, int bytes, Dealing dealing);

int divide_up(int a, int b);

}  // namespace mamba::ops::scan
