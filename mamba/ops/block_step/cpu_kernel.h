// What lies between the products of a block's step on a CPU, for ranges of channels. Private to this folder.
#pragma once

#include <cstdint>

#include "mamba/ops/cpu/view.h"

namespace mamba::ops::step {

// Rows are (B, ...) and contiguous; T is `element`.
struct Channels {
  int64_t batch, channels, states, taps, rank;
  cpu::Element element;

  const void* xz;            // (B, 2 D) T
  const float* conv_weight;  // (K, D)
  const float* conv_bias;    // (D) or null
  const void* conv;          // (B, K - 1, D) T
  void* conv_after;          // may be `conv`
  void* u;                   // (B, D) T

  const void* dt_B_C;    // (B, R + 2 N) T
  const void* delta;     // (B, D) T
  const float* dt_bias;  // (D)
  const float* A;        // (D, N)
  const float* D;        // (D)
  const float* ssm;      // (B, D, N)
  float* ssm_after;      // may be `ssm`
  void* y;               // (B, D) T
};

// The convolution's and the scan's step for channels [begin, end) of all rows. Each channel the same however they are
// cut.
void convolve(const Channels& in, int64_t begin, int64_t end);
void scan(const Channels& in, int64_t begin, int64_t end);

// to = h + out, for columns [begin, end) of (B, M); may be in place.
struct Sum {
  int64_t batch, width;
  cpu::Element h_element;
  cpu::Element out_element;
  const void* h;
  const void* out;
  void* to;
};
void add(const Sum& sum, int64_t begin, int64_t end);

}  // namespace mamba::ops::step
