// The scan takes A and the state as they lie: a vector holds neighbouring states of one channel, so nothing is turned
// over. What is added up across a vector's lanes, the output, is added up for four channels at a time.

#include "mamba/ops/cpu/targets.h"  // before foreach_target.h
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/block_step/cpu_kernel.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "mamba/ops/block_step/cpu_kernel.h"
#include "mamba/ops/cpu/floats-inl.h"
#include "mamba/ops/cpu/lanes-inl.h"
#include "mamba/ops/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba::ops::HWY_NAMESPACE {
namespace {

constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(FloatTag()));
constexpr int64_t kPiece = 64;  // channels at a time, whole vectors

template <typename T>
void convolve_channels(const step::Channels& in, int64_t begin, int64_t end) {
  const FloatTag d;
  const int64_t K = in.taps;
  const int64_t D = in.channels;
  for (int64_t b = 0; b < in.batch; ++b) {
    const T* const x = static_cast<const T*>(in.xz) + 2 * b * D;
    const T* const before = static_cast<const T*>(in.conv) + b * (K - 1) * D;
    T* const after = static_cast<T*>(in.conv_after) + b * (K - 1) * D;
    T* const u = static_cast<T*>(in.u) + b * D;
    for (int64_t c = begin; c < end; c += kLanes) {
      const auto left = static_cast<size_t>(end - c);
      FloatVec sum = in.conv_bias == nullptr ? hn::Zero(d) : load_some(d, in.conv_bias + c, left);
      for (int64_t k = 0; k < K; ++k) {
        const T* const row = k + 1 < K ? before + k * D : x;
        const FloatVec value = load_some(d, row + c, left);
        sum = hn::MulAdd(load_some(d, in.conv_weight + k * D + c, left), value, sum);
        if (k > 0) {
          store_some(d, value, after + (k - 1) * D + c, left);
        }
      }
      store_some(d, silu(d, sum), u + c, left);
    }
  }
}

// One channel's states, in place or not; the lanes' shares of the output.
HWY_INLINE FloatVec update(FloatTag d, int64_t states, float dt, float dtu, const float* HWY_RESTRICT A,
                           const float* HWY_RESTRICT B, const float* HWY_RESTRICT C, const float* before,
                           float* after) {
  const FloatVec dt_lanes = hn::Set(d, dt);
  const FloatVec dtu_lanes = hn::Set(d, dtu);
  FloatVec y = hn::Zero(d);
  for (int64_t n = 0; n < states; n += kLanes) {
    const auto left = static_cast<size_t>(states - n);
    const FloatVec decay = exp2(d, hn::Mul(dt_lanes, load_some(d, A + n, left)));
    const FloatVec next = hn::MulAdd(decay, load_some(d, before + n, left), hn::Mul(dtu_lanes, hn::LoadU(d, B + n)));
    store_some(d, next, after + n, left);
    y = hn::MulAdd(next, hn::LoadU(d, C + n), y);
  }
  return y;
}

// f(c, vectors) for channels [0, count), whose vectors begin at c: four at a time, as far as there are so many.
template <typename F>
HWY_INLINE void for_vectors(int64_t count, const F& f) {
  constexpr int64_t kAtOnce = 4;
  int64_t c = 0;
  for (; c + kAtOnce * kLanes <= count; c += kAtOnce * kLanes) {
    FloatVec v[kAtOnce];
    f(c, v);
  }
  for (; c < count; c += kLanes) {
    FloatVec v[1];
    f(c, v);
  }
}

template <typename T>
void scan_channels(const step::Channels& in, int64_t begin, int64_t end) {
  const FloatTag d;
  const int64_t D = in.channels;
  const int64_t N = in.states;
  const int64_t padded = (N + kLanes - 1) / kLanes * kLanes;
  HWY_ALIGN float dt[kPiece];
  HWY_ALIGN float dtu[kPiece];
  HWY_ALIGN float sums[kPiece];
  float* const B = cpu::scratch(static_cast<size_t>(2 * padded));
  float* const C = B + padded;
  for (int64_t b = 0; b < in.batch; ++b) {
    const T* const dt_B_C = static_cast<const T*>(in.dt_B_C) + b * (in.rank + 2 * N);
    for (int64_t n = 0; n < N; n += kLanes) {
      const auto left = static_cast<size_t>(N - n);
      hn::StoreU(load_some(d, dt_B_C + in.rank + n, left), d, B + n);
      hn::StoreU(load_some(d, dt_B_C + in.rank + N + n, left), d, C + n);
    }
    for (int64_t first = begin; first < end; first += kPiece) {
      const int64_t count = std::min(kPiece, end - first);
      const T* const u = static_cast<const T*>(in.u) + b * D + first;
      const T* const z = static_cast<const T*>(in.xz) + (2 * b + 1) * D + first;
      const T* const delta = static_cast<const T*>(in.delta) + b * D + first;
      T* const y = static_cast<T*>(in.y) + b * D + first;
      for_vectors(count, [&](int64_t from, auto& v) HWY_ATTR {
        int64_t c = from;
        for (FloatVec& step : v) {
          const auto left = static_cast<size_t>(count - c);
          step = hn::Add(load_some(d, delta + c, left), load_some(d, in.dt_bias + first + c, left));
          c += kLanes;
        }
        softplus_each(d, v);
        c = from;
        for (const FloatVec& step : v) {
          const auto left = static_cast<size_t>(count - c);
          hn::Store(hn::Mul(step, hn::Set(d, kLog2e)), d, dt + c);
          hn::Store(hn::Mul(step, load_some(d, u + c, left)), d, dtu + c);
          c += kLanes;
        }
      });
      const float* const A = in.A + first * N;
      const float* const before = in.ssm + (b * D + first) * N;
      float* const after = in.ssm_after + (b * D + first) * N;
      const auto one = [&](int64_t c) HWY_ATTR {
        return update(d, N, dt[c], dtu[c], A + c * N, B, C, before + c * N, after + c * N);
      };
      int64_t c = 0;
      for (; c + 4 <= count; c += 4) {
        const FloatVec v0 = one(c);
        const FloatVec v1 = one(c + 1);
        const FloatVec v2 = one(c + 2);
        const FloatVec v3 = one(c + 3);
        sum_lanes(d, v0, v1, v2, v3, sums + c);
      }
      for (; c < count; ++c) {
        float four[4];
        const FloatVec zero = hn::Zero(d);
        sum_lanes(d, one(c), zero, zero, zero, four);
        sums[c] = four[0];
      }
      for_vectors(count, [&](int64_t from, auto& v) HWY_ATTR {
        int64_t at = from;
        for (FloatVec& gate : v) {
          gate = load_some(d, z + at, static_cast<size_t>(count - at));
          at += kLanes;
        }
        silu_each(d, v);
        at = from;
        for (const FloatVec& gate : v) {
          const auto left = static_cast<size_t>(count - at);
          const FloatVec skip = load_some(d, in.D + first + at, left);
          const FloatVec out = hn::MulAdd(skip, load_some(d, u + at, left), hn::Load(d, sums + at));
          store_some(d, hn::Mul(out, gate), y + at, left);
          at += kLanes;
        }
      });
    }
  }
}

template <typename H, typename T>
void add_columns(const step::Sum& sum, int64_t begin, int64_t end) {
  const FloatTag d;
  for (int64_t b = 0; b < sum.batch; ++b) {
    const H* const h = static_cast<const H*>(sum.h) + b * sum.width;
    const T* const out = static_cast<const T*>(sum.out) + b * sum.width;
    H* const to = static_cast<H*>(sum.to) + b * sum.width;
    for (int64_t c = begin; c < end; c += kLanes) {
      const auto left = static_cast<size_t>(end - c);
      store_some(d, hn::Add(load_some(d, out + c, left), load_some(d, h + c, left)), to + c, left);
    }
  }
}

void convolve_range(const step::Channels& in, int64_t begin, int64_t end) {
  cpu::visit(in.element, [&](auto type) { convolve_channels<decltype(type)>(in, begin, end); });
}

void scan_range(const step::Channels& in, int64_t begin, int64_t end) {
  cpu::visit(in.element, [&](auto type) { scan_channels<decltype(type)>(in, begin, end); });
}

void add_range(const step::Sum& sum, int64_t begin, int64_t end) {
  cpu::visit(sum.h_element, [&](auto h) {
    cpu::visit(sum.out_element, [&](auto out) { add_columns<decltype(h), decltype(out)>(sum, begin, end); });
  });
}

}  // namespace
}  // namespace mamba::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba::ops {
HWY_EXPORT(convolve_range);
HWY_EXPORT(scan_range);
HWY_EXPORT(add_range);

void step::convolve(const Channels& in, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(ops::convolve_range)(in, begin, end);
}

void step::scan(const Channels& in, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(ops::scan_range)(in, begin, end);
}

void step::add(const Sum& sum, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(ops::add_range)(sum, begin, end);
}

}  // namespace mamba::ops
#endif
