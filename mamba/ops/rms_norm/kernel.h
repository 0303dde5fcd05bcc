// The CPU kernels of rms_norm and what they are given. Private to this folder.
#pragma once

#include <cstdint>

#include "mamba/ops/cpu/view.h"

namespace mamba::ops::norm {

struct Inputs {
  int64_t batch, length, channels;  // (batch, length) rows
  float eps;
  cpu::Element element;  // of x
  cpu::Rows x;
  cpu::Numbers weight;  // (D,)
  float* wide_weight;   // workspace of D floats
  cpu::Rows residual;   // or absent
  cpu::Element residual_element;
};

struct Outputs {
  void* y;  // (rows, D)
  cpu::Element y_element;
  void* sum;  // (rows, D), or null where it is not asked for
  cpu::Element sum_element;
};

struct GradientInputs {
  int64_t batch, length, channels;
  float eps;
  cpu::Rows x;  // what was normalised
  cpu::Element x_element;
  cpu::Numbers weight;  // (D,)
  float* wide_weight;   // workspace of D floats
  cpu::Rows gy;
  cpu::Element gy_element;
  cpu::Rows gsum;  // cotangent of x itself, or absent
  cpu::Element gsum_element;
};

struct Gradients {
  void* x;  // (rows, D)
  cpu::Element x_element;
  void* wide;    // the same in float32, or null
  void* weight;  // (D,)
  cpu::Element weight_element;
  float* shares;  // workspace of num_groups() rows of D floats
};

// Rows are cut into groups, the same ones on any machine: each adds up its share of the weight's gradient.
inline int64_t rows_per_group(int64_t rows) {
  return rows <= 1024 ? 16 : (rows + 63) / 64;
}
inline int64_t num_groups(int64_t rows) {
  return (rows + rows_per_group(rows) - 1) / rows_per_group(rows);
}

void forward(const Inputs& in, const Outputs& out);
void backward(const GradientInputs& in, const Gradients& out);

}  // namespace mamba::ops::norm
