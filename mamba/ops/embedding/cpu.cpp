// Positions are put in the order of their tokens first, equal ones staying in their own order. Then a row of the table
// is one sum, rounded once, and the tokens are shared among threads as they come.

#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/embedding/cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/floats-inl.h"
#include "mamba/ops/embedding/kernel.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

template <typename T, typename Out>
void copy_range(const T* in, int64_t begin, int64_t end, Out* out) {
  const FloatTag d;
  for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d))) {
    const auto left = static_cast<size_t>(end - i);
    store_some(d, load_some(d, in + i, left), out + i, left);
  }
}

// The row of the tokens at order[begin, end), all the same.
template <typename T, typename Out>
void add_to_row(const embedding_detail::Job& job, int64_t begin, int64_t end, const T* dy, Out* out) {
  const FloatTag d;
  for (int64_t k = 0; k < job.width; k += static_cast<int64_t>(hn::Lanes(d))) {
    const auto left = static_cast<size_t>(job.width - k);
    FloatVec sum = load_some(d, out + k, left);
    for (int64_t i = begin; i < end; ++i) {
      sum = hn::Add(sum, load_some(d, dy + job.order[i] * job.width + k, left));
    }
    store_some(d, sum, out + k, left);
  }
}

// Rows whose first position is one of order[begin, end).
template <typename T, typename Out>
void add_rows(const embedding_detail::Job& job, int64_t begin, int64_t end, const T* dy, Out* out) {
  const auto token = [&](int64_t i) { return job.tokens[job.order[i]]; };
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = token(i);
    if (row < 0 || row >= job.rows || (i > 0 && token(i - 1) == row)) {
      continue;
    }
    int64_t next = i + 1;
    while (next < job.count && token(next) == row) {
      ++next;
    }
    add_to_row(job, i, next, dy, out + row * job.width);
  }
}

void add_gradient(const embedding_detail::Job& job) {
  constexpr int64_t kGrain = 1 << 15;
  const int64_t size = job.rows * job.width;
  std::iota(job.order, job.order + job.count, 0);
  std::sort(job.order, job.order + job.count,
            [&](int32_t a, int32_t b) { return std::pair(job.tokens[a], a) < std::pair(job.tokens[b], b); });
  cpu::visit(job.out_element, [&](auto out_type) {
    auto* const out = static_cast<decltype(out_type)*>(job.out);
    if (job.base.data != job.out) {
      parallel_for(size, kGrain, [&](int64_t begin, int64_t end) {
        if (job.base.data == nullptr) {
          std::memset(static_cast<void*>(out + begin), 0, static_cast<size_t>(end - begin) * sizeof(*out));
          return;
        }
        cpu::visit(job.base.element, [&](auto type) HWY_ATTR {
          copy_range(static_cast<const decltype(type)*>(job.base.data), begin, end, out);
        });
      });
    }
    parallel_for(job.count, std::max<int64_t>(1, 8192 / std::max<int64_t>(1, job.width)),
                 [&](int64_t begin, int64_t end) {
                   cpu::visit(job.dy.element, [&](auto type) HWY_ATTR {
                     add_rows(job, begin, end, static_cast<const decltype(type)*>(job.dy.data), out);
                   });
                 });
  });
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops {
HWY_EXPORT(add_gradient);

void embedding_detail::gradient(const Job& job) {
  HWY_DYNAMIC_DISPATCH(add_gradient)(job);
}

}  // namespace mamba::ops
#endif
