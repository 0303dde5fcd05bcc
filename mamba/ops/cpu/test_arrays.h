// Arrays for the tests and benches of ops: made from a seed, compared number by number.
#pragma once

#include <mlx/array.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "mamba/base/error_testing.h"

namespace mamba::ops::testing {

inline mlx::core::array normal(const mlx::core::Shape& shape, uint64_t seed, float scale = 1.0f, float mean = 0.0f,
                               mlx::core::Dtype dtype = mlx::core::float32) {
  namespace mx = mlx::core;
  mx::array a = mx::astype(mx::random::normal(shape, mx::float32, mean, scale, mx::random::key(seed)), dtype);
  a.eval();
  return a;
}

// Of numbers in [-scale, scale).
inline mlx::core::array random_array(mlx::core::Shape shape, mlx::core::Dtype dtype, uint64_t seed, float scale = 1) {
  namespace mx = mlx::core;
  return mx::astype(mx::random::uniform(-scale, scale, std::move(shape), mx::float32, mx::random::key(seed)), dtype);
}

inline std::vector<float> values(const mlx::core::array& a) {
  mlx::core::array wide = mlx::core::contiguous(mlx::core::astype(a, mlx::core::float32));
  wide.eval();
  return {wide.data<float>(), wide.data<float>() + wide.size()};
}

// The bits of each element, so that -0 and 0, or two NaNs, are told apart.
inline std::vector<uint8_t> bits(const mlx::core::array& a) {
  mlx::core::array flat = mlx::core::contiguous(a);
  flat.eval();
  return {flat.data<uint8_t>(), flat.data<uint8_t>() + flat.nbytes()};
}

// `a` as the columns from `first` on of an array that is wider by `extra` columns of NaN: for kernels that must read
// slices in place and nothing beside them.
inline mlx::core::array inside_wider(const mlx::core::array& a, int first, int extra) {
  namespace mx = mlx::core;
  mx::Shape left = a.shape();
  left.back() = first;
  mx::Shape right = a.shape();
  right.back() = extra - first;
  const mx::array nan = mx::array(NAN, a.dtype());
  mx::array wide = mx::contiguous(mx::concatenate({mx::full(left, nan), a, mx::full(right, nan)}, -1));
  wide.eval();
  mx::Shape start(a.ndim(), 0);
  start.back() = first;
  mx::Shape stop = a.shape();
  stop.back() += first;
  mx::array slice = mx::slice(wide, start, stop);
  slice.eval();
  return slice;
}

// The largest |a - b| / (1 + |magnitude|), in float64; infinity where the shapes differ or a number is not finite.
// `magnitude` is an array of the same shape or one number.
inline double worst_difference(const mlx::core::array& a, const mlx::core::array& b,
                               const mlx::core::array& magnitude) {
  namespace mx = mlx::core;
  if (a.shape() != b.shape()) {
    return INFINITY;
  }
  if (a.size() == 0) {
    return 0.0;
  }
  const mx::Device cpu = mx::Device::cpu;
  const auto wide = [&](const mx::array& v) { return mx::astype(v, mx::float64, cpu); };
  const mx::array difference = mx::abs(mx::subtract(wide(a), wide(b), cpu), cpu);
  const mx::array scale = mx::add(mx::abs(wide(magnitude), cpu), mx::array(1.0, mx::float64), cpu);
  mx::array error = mx::divide(difference, scale, cpu);
  const double worst = mx::max(error, cpu).item<double>();
  return std::isfinite(worst) ? worst : INFINITY;
}

// Same shape, dtype and bytes.
inline bool same_bits(const mlx::core::array& a, const mlx::core::array& b) {
  namespace mx = mlx::core;
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) {
    return false;
  }
  mx::array x = mx::contiguous(a);
  mx::array y = mx::contiguous(b);
  mx::eval(x, y);
  return std::memcmp(x.data<char>(), y.data<char>(), x.nbytes()) == 0;
}

// Positions [from, to) of axis 1.
inline mlx::core::array positions(const mlx::core::array& a, int from, int to) {
  namespace mx = mlx::core;
  mx::Shape start(a.ndim(), 0);
  mx::Shape stop = a.shape();
  start[1] = from;
  stop[1] = to;
  return mx::slice(a, start, stop);
}

// Row b of axis 0, which stays.
inline mlx::core::array batch_row(const mlx::core::array& a, int b) {
  namespace mx = mlx::core;
  mx::Shape start(a.ndim(), 0);
  mx::Shape stop = a.shape();
  start[0] = b;
  stop[0] = b + 1;
  return mx::slice(a, start, stop);
}

}  // namespace mamba::ops::testing
