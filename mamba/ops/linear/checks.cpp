#include "mamba/ops/linear/checks.h"

#include <mlx/ops.h>

#include "mamba/base/error.h"
#include "mamba/ops/dispatch.h"
#include "mamba/ops/product/product.h"

namespace mamba::ops {

namespace mx = mlx::core;

void check_linear(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                  const LinearOptions& options) {
  check_float("linear", "x", x);
  check_float("linear", "weight", weight);
  check(x.ndim() >= 1, "[linear] x must be (..., K) but is a scalar");
  check(weight.ndim() == 2, "[linear] weight must be (N, K) but got {}", shown(weight.shape()));
  check_linear("linear", x, weight.shape(0), weight.shape(1), bias, options);
}

void check_linear(const char* op, const mx::array& x, int n, int k, const std::optional<mx::array>& bias,
                  const LinearOptions& options) {
  check_float(op, "x", x);
  check(x.ndim() >= 1, "[{}] x must be (..., K) but is a scalar", op);
  check(x.shape(-1) == k, "[{}] weight must be (-1, {}) but got ({}, {})", op, x.shape(-1), n, k);
  if (bias) {
    check_float(op, "bias", *bias);
    check_shape(op, "bias", *bias, {n});
  }
  if (options.spans) {
    check(x.ndim() == 3, "[{}] spans need x (B, L, K) but x is {}", op, shown(x.shape()));
    check_shape(op, "spans", *options.spans, {x.shape(0), 2});
    check(options.spans->dtype() == mx::int32, "[{}] spans must be int32", op);
  }
  if (options.out_dtype) {
    check(*options.out_dtype == x.dtype() || *options.out_dtype == mx::float32,
          "[{}] out_dtype must be x's dtype or float32", op);
  }
  if (options.low_rank) {
    const auto& [u, V] = *options.low_rank;
    check_float(op, "V", V);
    check_shape(op, "V", V, {n, -1});
    mx::Shape shape = x.shape();
    shape.back() = V.shape(1);
    check(u.shape() == shape, "[{}] u must be {} but got {}", op, shown(shape), shown(u.shape()));
    check(u.dtype() == mx::float32, "[{}] u must be float32 but is {}", op, shown(u.dtype()));
  }
}

mx::array keep_spans(const mx::array& a, const mx::array& spans, mx::StreamOrDevice s) {
  const int sequences = a.shape(0);
  const mx::array rows = mx::arange(a.shape(1), mx::int32, s);                                             // (L,)
  const mx::array begin = mx::slice(spans, {0, 0}, {sequences, 1}, s);                                     // (B, 1)
  const mx::array end = mx::slice(spans, {0, 1}, {sequences, 2}, s);                                       // (B, 1)
  const mx::array inside = mx::logical_and(mx::greater_equal(rows, begin, s), mx::less(rows, end, s), s);  // (B, L)
  return mx::where(mx::expand_dims(inside, 2, s), a, mx::array(0, a.dtype()), s);
}

namespace {

// `multiply` of x's rows as a matrix.
template <typename Multiply>
mx::array of_rows(const mx::array& x, const mx::array& weight, const mx::Stream& stream, const Multiply& multiply) {
  const int width = weight.shape(1);
  mx::Shape shape = x.shape();
  shape.back() = weight.shape(0);
  if (x.size() == 0) {
    return mx::zeros(shape, mx::float32, stream);
  }
  const auto rows = static_cast<int>(x.size() / static_cast<size_t>(width));
  return mx::reshape(multiply(mx::reshape(x, {rows, width}, stream)), shape, stream);
}

}  // namespace

mx::array rows_times_transposed(const mx::array& x, const mx::array& weight, const mx::Stream& stream) {
  return of_rows(x, weight, stream,
                 [&](const mx::array& rows) { return differentiable_product_nt(rows, weight, stream); });
}

mx::array rows_times_transposed(const mx::array& x, const Operand& weight, const mx::Stream& stream) {
  return of_rows(x, weight.matrix(), stream,
                 [&](const mx::array& rows) { return product_nt(Operand(rows), weight, stream); });
}

mx::array finished_product(mx::array y, bool has_bias, const LinearOptions& options, mx::Dtype out_dtype,
                           mx::StreamOrDevice s) {
  if (options.low_rank) {
    const mx::array V = mx::astype(options.low_rank->V, mx::float32, s);
    const mx::array wide = mx::astype(y, mx::float32, s);
    const mx::array& u = options.low_rank->u;
    y = splits_products(mx::to_stream(s)) ? mx::add(wide, rows_times_transposed(u, V, mx::to_stream(s)), s)
                                          : mx::addmm(wide, u, mx::transpose(V, s), 1.0f, 1.0f, s);
  }
  if (options.spans && (has_bias || options.low_rank)) {
    y = keep_spans(y, *options.spans, s);
  }
  return mx::astype(y, out_dtype, s);
}

}  // namespace mamba::ops
