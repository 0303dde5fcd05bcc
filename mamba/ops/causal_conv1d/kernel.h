// The CPU kernels of causal_conv1d and what they are given. Private to this folder.
#pragma once

#include <algorithm>
#include <cstdint>

#include "mamba/ops/cpu/view.h"

namespace mamba::ops::conv {

struct Inputs {
  int64_t batch, length, channels, taps;
  cpu::Element element;
  bool silu;
  cpu::Rows x;
  cpu::Numbers weight;        // (D, K)
  cpu::Numbers bias;          // (D,) or absent
  const void* initial_state;  // (B, K - 1, D) or null
  const int32_t* spans;       // (B, 2) or null
  const uint8_t* resets;      // (B, L) or null
  float* packed;              // workspace of packed_floats()
};

struct Outputs {
  void* y;      // (B, L, D)
  void* state;  // (B, K - 1, D)
};

// The workspace: K rows of weights, the bias and a row of zeros, each of packed_stride() floats, then room to widen
// the weights.
constexpr int64_t kPad = 32;  // floats, at least a vector: rows can be read to the end of their last vector
inline int64_t packed_stride(int64_t channels) {
  return (channels + kPad - 1) / kPad * kPad;
}
inline int64_t packed_floats(int64_t channels, int64_t taps) {
  return packed_stride(channels) * (taps + 2) + channels * taps;
}

// in.packed as forward() fills it, from weights that are turned over already: (K, D) and (D,) or null.
inline void fill_packed(const float* weight, const float* bias, int64_t channels, int64_t taps, float* packed) {
  const int64_t stride = packed_stride(channels);
  std::fill(packed, packed + (taps + 2) * stride, 0.0f);
  for (int64_t k = 0; k < taps; ++k) {
    std::copy_n(weight + k * channels, channels, packed + k * stride);
  }
  if (bias != nullptr) {
    std::copy_n(bias, channels, packed + taps * stride);
  }
}

// The first position that output t sees, as far as resets go: the last reset in its window, else INT64_MIN.
inline int64_t first_visible(const Inputs& in, int64_t b, int64_t begin, int64_t t) {
  if (in.resets != nullptr) {
    for (int64_t p = t; p >= std::max(begin, t - in.taps + 1); --p) {
      if (in.resets[b * in.length + p] != 0) {
        return p;
      }
    }
  }
  return INT64_MIN;
}

// The row at position p of a sequence that begins at `begin`; null where it is 0.
template <typename T>
const T* row_at(const Inputs& in, int64_t b, int64_t begin, int64_t visible, int64_t p) {
  if (p < visible) {
    return nullptr;
  }
  if (p >= begin) {
    return in.x.row<T>(b, p);
  }
  if (in.initial_state == nullptr) {
    return nullptr;
  }
  return static_cast<const T*>(in.initial_state) + (b * (in.taps - 1) + in.taps - 1 + p - begin) * in.channels;
}

// Channels that one task of the backward pass works on.
constexpr int64_t kBlock = 64;
inline int64_t num_blocks(int64_t channels) {
  return (channels + kBlock - 1) / kBlock;
}

struct Gradients {
  cpu::Rows gy;         // cotangent of y
  const void* gstate;   // (B, K - 1, D), cotangent of the state; null: 0
  void* x;              // (B, L, D), T
  int64_t x_stride;     // elements from one of its positions to the next
  void* weight;         // (D, K)
  void* bias;           // (D,) or null
  void* initial_state;  // (B, K - 1, D), T, or null
  float* shares;        // workspace: (B, num_blocks, K + 1, kBlock), the sums for the weights and the bias
};

inline int64_t shares_floats(int64_t batch, int64_t channels, int64_t taps) {
  return batch * num_blocks(channels) * (taps + 1) * kBlock;
}

void forward(const Inputs& in, const Outputs& out);
// forward() in pieces, on the calling thread, with in.packed filled: positions [from, to) of row b, y as in Outputs,
// and the row's state.
void forward_positions(const Inputs& in, int64_t b, int64_t from, int64_t to, void* y);
void forward_state(const Inputs& in, int64_t b, void* state);
void backward(const Inputs& in, const Gradients& out);

}  // namespace mamba::ops::conv
