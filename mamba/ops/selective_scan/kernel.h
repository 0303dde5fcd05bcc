// The CPU kernels of selective_scan and what they are given. Private to this folder.
#pragma once

#include <cstdint>

#include "mamba/ops/cpu/view.h"

namespace mamba::ops::scan {

// Channels that one task works on: rows of floats are then read in whole cache lines.
constexpr int64_t kBlock = 32;
// One state is kept for every so many positions, for the backward pass to start from.
constexpr int64_t kKept = 64;

inline int64_t num_blocks(int64_t channels) {
  return (channels + kBlock - 1) / kBlock;
}

// States kept: before positions kKept, 2 kKept, ... The first needs none: it is the initial state.
inline int64_t num_kept(int64_t length) {
  return length == 0 ? 0 : (length - 1) / kKept;
}

struct Inputs {
  int64_t batch, length, channels, states;
  cpu::Element element;
  bool softplus;
  cpu::Rows u, delta, B, C, z;
  const float* A;  // (D, N)
  cpu::Numbers D, delta_bias;
  const float* initial_state;  // (B, D, N) or null
  const int32_t* spans;        // (B, 2) or null
  const uint8_t* resets;       // (B, L) or null
};

struct Outputs {
  void* y;       // (B, L, D)
  float* state;  // (B, D, N)
  float* kept;   // (B, num_kept, num_blocks, N, kBlock): states, channels in the last axis
};

void forward(const Inputs& in, const Outputs& out);

}  // namespace mamba::ops::scan
