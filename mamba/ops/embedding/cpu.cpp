// Threads share the columns, not the tokens: each walks all tokens in order over its own columns, so that no two write
// the same number and the order of the sums is fixed.

#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/embedding/cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "mamba/base/threads.h"
#include "mamba/ops/cpu/floats-inl.h"
#include "mamba/ops/embedding/kernel.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

template <typename T>
void widen_range(const T* in, int64_t begin, int64_t end, float* out) {
  const FloatTag d;
  for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::Lanes(d))) {
    const auto left = static_cast<size_t>(end - i);
    store_some(d, load_some(d, in + i, left), out + i, left);
  }
}

template <typename T>
void add_rows(const embedding_detail::Job& job, const T* dy, int64_t begin, int64_t end) {
  const FloatTag d;
  for (int64_t i = 0; i < job.count; ++i) {
    const int64_t row = job.tokens[i];
    if (row < 0 || row >= job.rows) {
      continue;
    }
    float* out = job.out + row * job.width;
    const T* in = dy + i * job.width;
    for (int64_t k = begin; k < end; k += static_cast<int64_t>(hn::Lanes(d))) {
      const auto left = static_cast<size_t>(end - k);
      store_some(d, hn::Add(load_some(d, out + k, left), load_some(d, in + k, left)), out + k, left);
    }
  }
}

void add_gradient(const embedding_detail::Job& job) {
  constexpr int64_t kGrain = 1 << 15;
  constexpr int64_t kColumns = 64;
  const int64_t size = job.rows * job.width;
  if (job.base.data != job.out) {
    parallel_for(size, kGrain, [&](int64_t begin, int64_t end) {
      if (job.base.data == nullptr) {
        std::memset(job.out + begin, 0, static_cast<size_t>(end - begin) * sizeof(float));
        return;
      }
      cpu::visit(job.base.element, [&](auto type) HWY_ATTR {
        widen_range(static_cast<const decltype(type)*>(job.base.data), begin, end, job.out);
      });
    });
  }
  parallel_for((job.width + kColumns - 1) / kColumns, 1, [&](int64_t begin, int64_t end) {
    cpu::visit(job.dy.element, [&](auto type) HWY_ATTR {
      add_rows(job, static_cast<const decltype(type)*>(job.dy.data), begin * kColumns,
               std::min(end * kColumns, job.width));
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
