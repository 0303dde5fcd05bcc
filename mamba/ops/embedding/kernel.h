// The kernel of embedding_gradient. Private to this folder.
#pragma once

#include <cstdint>

#include "mamba/ops/cpu/view.h"

namespace mamba::ops::embedding_detail {

struct Job {
  const int32_t* tokens;
  int64_t count;      // of tokens
  cpu::Numbers dy;    // (count, width), contiguous
  cpu::Numbers base;  // (rows, width), contiguous; data is null: zeros; may be `out`, in its element type
  int64_t rows;
  int64_t width;
  void* out;  // (rows, width)
  cpu::Element out_element;
  int32_t* order;  // (count,): to work in
};

void gradient(const Job& job);

}  // namespace mamba::ops::embedding_detail
