// What the kernel of adamw takes. Private to this folder.
#pragma once

#include <cstdint>

#include "mamba/ops/adamw/adamw.h"
#include "mamba/ops/cpu/view.h"

namespace mamba::ops::adamw_detail {

// What remains of the options at one step.
struct Factors {
  float beta1;
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float keep;           // 1 - lr weight_decay
  float step_size;      // lr / (1 - beta1^t)
  float root_of_bias2;  // sqrt(1 - beta2^t)
  float eps;
  float average_decay;
  float one_minus_average_decay;
  bool operator==(const Factors&) const = default;
};

Factors factors_of(const AdamWOptions& options);
// Throws Error with the values that make no sense.
void check_options(const AdamWOptions& options);

// Contiguous arrays of `count` numbers; outputs may be the inputs.
struct Update {
  int64_t count;
  const float* parameter;
  cpu::Numbers gradient;
  const float* m;
  const float* v;
  const float* average;         // null: none
  const float* gradient_scale;  // null: 1
  float* new_parameter;
  float* new_m;
  float* new_v;
  float* new_average;
  void* copy;  // null: none
  cpu::Element copy_element;
};

// On all threads.
void update(const Update& update, const Factors& factors);
// Elements [begin, end), on the thread that calls.
void update(const Update& update, const Factors& factors, int64_t begin, int64_t end);

}  // namespace mamba::ops::adamw_detail
