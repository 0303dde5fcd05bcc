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
  void* y;       // (B, L, D); may be u
  float* state;  // (B, D, N)
  // (B, num_kept, num_blocks, N, kBlock): states, channels in the last axis. Null: none are kept.
  float* kept;
};

// Each channel's numbers lie at [..., n, c % kBlock] of block c / kBlock; the last block is filled up with zeros.
struct Workspace {
  float* carry;  // (B, num_blocks, N, kBlock): cotangent of the state before the position that was done last
  float* A;      // (B, num_blocks, N, kBlock)
  float* D;      // (B, num_blocks, kBlock)
  float* bias;   // (B, num_blocks, kBlock)
  float* BC;     // (B, num_blocks, kKept, 2 N): each block's share of the gradients of B and C
};

// With room to begin at a cache line.
inline int64_t workspace_floats(int64_t batch, int64_t channels, int64_t states) {
  return batch * num_blocks(channels) * (2 * states * kBlock + 2 * kBlock + 2 * states * kKept) + 16;
}

struct Cotangents {
  cpu::Rows y;         // (B, L, D), T
  const float* state;  // (B, D, N); null: 0
  const float* kept;   // what forward() left there
};

struct Gradients {
  void* u;               // (B, L, D), T
  void* delta;           // (B, L, D), T
  float* A;              // (D, N)
  void* B;               // (B, L, N), T
  void* C;               // (B, L, N), T
  int64_t BC_stride;     // elements from one position of B or C to the next
  void* D;               // (D,) or null
  void* z;               // (B, L, D), T, or null
  int64_t z_stride;      // likewise
  void* delta_bias;      // (D,) or null
  float* initial_state;  // (B, D, N) or null
  float* workspace;      // workspace_floats()
};

void forward(const Inputs& in, const Outputs& out);
// forward() in pieces, on the calling thread: tasks [begin, end) of so many.
int64_t num_tasks(const Inputs& in);
void forward_tasks(const Inputs& in, const Outputs& out, int64_t begin, int64_t end);
void backward(const Inputs& in, const Cotangents& cotangents, const Gradients& out);

}  // namespace mamba::ops::scan
