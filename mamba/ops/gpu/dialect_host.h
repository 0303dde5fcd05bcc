// The words of kernel source as host C++: what runs in unit tests. A kernel's body is included inside a function that
// names its arrays and constants with the macros at the end; gpu/host.h emulates threads, barriers and shuffles.
#pragma once

#include <bit>
#include <cmath>

#include "mamba/base/error.h"
#include "mamba/ops/gpu/host.h"

#define MAMBA_FN inline
#define MAMBA_PRIVATE
#define MAMBA_UNROLL
#define MAMBA_NO_UNROLL
#define MAMBA_SHARED(type, name, count) type* const name = mamba::ops::gpu::host::shared<type>(count)
#define MAMBA_SHARED_MORE(type, name, count) MAMBA_SHARED(type, name, count)
#define MAMBA_SHARED_PTR(type) type*
#define MAMBA_WRITABLE(type, name) (name).writable()
#define MAMBA_BARRIER() mamba::ops::gpu::host::barrier()
#define MAMBA_DEVICE_BARRIER() mamba::ops::gpu::host::barrier()
#define MAMBA_GRID_BARRIER(counter) mamba::ops::gpu::host::grid_barrier()
#define MAMBA_PREFETCH(at, bytes) ((void)(at), (void)(bytes))
#define MAMBA_BARRIER_OF(threads) mamba::ops::gpu::host::barrier_of(threads)
#define MAMBA_GRID_BARRIER_OF(threads, counter) MAMBA_GRID_BARRIER(counter)
#define MAMBA_ELEMENT(array) float
#define MAMBA_SIMD_BARRIER() ((void)MAMBA_SHUFFLE(0.0f, 0))
#define MAMBA_SHUFFLE(value, lane) mamba::ops::gpu::host::shuffle(value, lane)
#define MAMBA_SHUFFLE_XOR(value, mask) mamba::ops::gpu::host::shuffle_xor(value, mask)
#define MAMBA_THREAD mamba::ops::gpu::host::thread_index()
#define MAMBA_GROUP_X mamba::ops::gpu::host::group_index(0)
#define MAMBA_GROUP_Y mamba::ops::gpu::host::group_index(1)
#define MAMBA_GROUP_Z mamba::ops::gpu::host::group_index(2)
#define MAMBA_GROUPS_X mamba::ops::gpu::host::groups(0)
#define MAMBA_GROUPS_Z mamba::ops::gpu::host::groups(2)

namespace mamba::ops::gpu::dialect {

struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
struct alignas(8) float2 {
  float x, y;
};
inline float2 make_float2(float x, float y) {
  return {x, y};
}

MAMBA_FN float mamba_float_of_bits(int bits) {
  return std::bit_cast<float>(bits);
}
MAMBA_FN int mamba_bits_of_float(float x) {
  return std::bit_cast<int>(x);
}
MAMBA_FN int mamba_anew(int x) {
  return x;
}
MAMBA_FN float mamba_exp2(float x) {
  return std::exp2(x);
}
MAMBA_FN float mamba_reciprocal(float x) {
  return 1.0f / x;
}
MAMBA_FN float mamba_rsqrt(float x) {
  return 1.0f / std::sqrt(x);
}
MAMBA_FN float mamba_log2(float x) {
  return std::log2(x);
}
MAMBA_FN float mamba_not_a_number() {
  return std::bit_cast<float>(0x7fc00000);
}
MAMBA_FN float mamba_sqrt(float x) {
  return std::sqrt(x);
}
MAMBA_FN float mamba_fma(float a, float b, float c) {
  return std::fma(a, b, c);
}
MAMBA_FN float mamba_max(float a, float b) {
  return a < b ? b : a;
}
MAMBA_FN float mamba_min(float a, float b) {
  return std::fmin(a, b);
}
MAMBA_FN float mamba_abs(float x) {
  return std::fabs(x);
}

template <typename From>
MAMBA_FN float4 mamba_load4(const From& from) {
  return {float(from[0]), float(from[1]), float(from[2]), float(from[3])};
}
template <typename To>
MAMBA_FN void mamba_store4(const To& to, const float4& value) {
  to[0] = value.x;
  to[1] = value.y;
  to[2] = value.z;
  to[3] = value.w;
}

MAMBA_FN void mamba_store2(float* to, float first, float second) {
  to[0] = first;
  to[1] = second;
}

template <typename T, int kCount>
struct MambaNumbers {
  float at[kCount];
  template <typename From>
  static bool whole(const From&, int64_t) {
    return true;
  }
  template <typename From>
  void load(const From& from) {
    for (int i = 0; i < kCount; ++i) {
      at[i] = float(from[i]);
    }
  }
  template <typename To>
  void store(const To& to) const {
    for (int i = 0; i < kCount; ++i) {
      to[i] = at[i];
    }
  }
  void set(int i, float number) { at[i] = number; }
  void round(const float (&from)[kCount]) {
    for (int i = 0; i < kCount; ++i) {
      at[i] = from[i];
    }
  }
  float get(int i) const { return at[i]; }
};

template <typename T>
struct MambaLine {
  static constexpr int kCount = 16 / int(sizeof(T));
  float numbers[kCount];
};
template <typename T>
MAMBA_FN MambaLine<T> mamba_no_line() {
  return {};
}
template <typename T, bool kWhole, typename From>
MAMBA_FN MambaLine<T> mamba_line(const From& from, int left) {
  MambaLine<T> line = {};
  for (int i = 0; i < line.kCount && (kWhole ? left > 0 : i < left); ++i) {
    line.numbers[i] = float(from[i]);
  }
  return line;
}
template <typename T, bool kWhole, typename From>
MAMBA_FN MambaLine<T> mamba_weight_line(const From& from, int left) {
  return mamba_line<T, kWhole>(from, left);
}
// Copies are there at once, but a thread that awaits them may be earlier than the one that makes them: all of a group
// await at once.
struct MambaArrivals {};
MAMBA_FN void mamba_begin_arrivals(MambaArrivals*, int) {}
MAMBA_FN void mamba_announce(MambaArrivals*, int) {}
MAMBA_FN void mamba_arrivals_told(MambaArrivals*) {}
template <typename T, typename From>
MAMBA_FN void mamba_copy_ahead(MambaLine<T>* to, const From& from, int bytes, MambaArrivals*) {
  const int count = 16 / from.number_bytes();
  for (int i = 0; i < bytes / 16; ++i) {
    for (int k = 0; k < count; ++k) {
      to[i].numbers[k] = float(from[i * count + k]);
    }
  }
}
MAMBA_FN void mamba_await(MambaArrivals*, int) {
  MAMBA_BARRIER();
}
template <typename T>
MAMBA_FN float4 mamba_floats_of(const MambaLine<T>& line) {
  return {line.numbers[0], line.numbers[1], line.numbers[2], line.numbers[3]};
}
template <typename T>
MAMBA_FN float mamba_line_number(const MambaLine<T>& line, int i) {
  return line.numbers[i];
}
template <typename T>
MAMBA_FN void mamba_tile_product(float (&sums)[4], const MambaLine<T>& low, const MambaLine<T>& high,
                                 const MambaLine<T>& right, int lane) {
  constexpr int kCount = MambaLine<T>::kCount;
  float mine[3 * kCount];
  for (int i = 0; i < kCount; ++i) {
    mine[i] = low.numbers[i];
    mine[kCount + i] = high.numbers[i];
    mine[2 * kCount + i] = right.numbers[i];
  }
  const float* const all = mamba::ops::gpu::host::share(mine, 3 * kCount);
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4;
    const int column = lane % 4 * 2 + i % 2;
    for (int neighbour = 0; neighbour < 4; ++neighbour) {
      for (int k = 0; k < kCount; ++k) {
        sums[i] = std::fma(all[(row * 4 + neighbour) * 3 * kCount + i / 2 * kCount + k],
                           all[(column * 4 + neighbour) * 3 * kCount + 2 * kCount + k], sums[i]);
      }
    }
  }
}
template <typename T, int kTiles>
MAMBA_FN void mamba_tile_products(float (&tiles)[kTiles][4], const MambaLine<T>& low, const MambaLine<T>& high,
                                  const MambaLine<T> (&rights)[kTiles], int lane) {
  for (int n = 0; n < kTiles; ++n) {
    mamba_tile_product(tiles[n], low, high, rights[n], lane);
  }
}

#include "mamba/ops/gpu/math.h"
#include "mamba/ops/gpu/streams_host.h"
// Uses what stands there.
#include "mamba/ops/gpu/pairs_host.h"
// Uses what stands in the file before.
#include "mamba/ops/gpu/tiles.h"
// And in that one.
#include "mamba/ops/gpu/ring.h"

}  // namespace mamba::ops::gpu::dialect

// In front of an included body: its arrays, whatever their dtypes, and its compile-time constants.
#define MAMBA_HOST_IN(name)                                                        \
  [[maybe_unused]] const mamba::ops::gpu::host::Input name = launch.input(#name);  \
  [[maybe_unused]] const mamba::ops::gpu::host::Sizes name##_shape = name.shape(); \
  [[maybe_unused]] const mamba::ops::gpu::host::Sizes name##_strides = name.strides()
#define MAMBA_HOST_OUT(name) [[maybe_unused]] const mamba::ops::gpu::host::Output name = launch.output(#name)
#define MAMBA_HOST_BOOL(name) [[maybe_unused]] const bool name = launch.constant(#name) != 0
#define MAMBA_HOST_INT(name) [[maybe_unused]] const int name = launch.constant(#name)
