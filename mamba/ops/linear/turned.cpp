#include "mamba/ops/linear/turned.h"

#include <array>

#include "mamba/base/threads.h"
#include "mamba/ops/linear/convert.h"
#include "mamba/ops/linear/multiply.h"

namespace mamba::ops::linear_detail {

namespace {

constexpr int64_t kMaxTurned = 64;

}  // namespace

bool is_better_turned(int64_t n, int64_t k, Float dy, Float x) {
  return 4 * k <= n && k <= kMaxTurned && !multiplies_in_bf16(dy, x);
}

void turn(const float* from, int64_t rows, int64_t columns, const OutRows& to) {
  parallel_for(columns, 256, [&](int64_t begin, int64_t end) {
    std::array<float, kMaxTurned> row;
    for (int64_t j = begin; j < end; ++j) {
      for (int64_t i = 0; i < rows; ++i) {
        row[static_cast<size_t>(i)] = from[i * columns + j];
      }
      narrow(row.data(), rows, to.type, to.rows[static_cast<size_t>(j)]);
    }
  });
}

}  // namespace mamba::ops::linear_detail
