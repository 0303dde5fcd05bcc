// The CPU kernels of rms_norm and what they are given. Private to this folder.
#pragma once

#include <cstdint>

#include "mamba/ops/cpu/view.h"

namespace mamba::ops::norm {

struct Inputs {
  int64_t batch, length, channels;  // (batch, length) rows
  float eps;
  cpu::Element element;  // of x and y
  cpu::Rows x;
  cpu::Numbers weight;  // (D,)
  float* wide_weight;   // workspace of D floats
  cpu::Rows residual;   // or absent
  cpu::Element residual_element;
};

struct Outputs {
  void* y;    // (rows, D)
  void* sum;  // (rows, D), or null where it is not asked for
  cpu::Element sum_element;
};

void forward(const Inputs& in, const Outputs& out);

}  // namespace mamba::ops::norm
