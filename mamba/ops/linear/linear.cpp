#include "mamba/ops/linear/linear.h"

#include <mlx/ops.h>

#include <utility>

#include "mamba/ops/dispatch.h"
#include "mamba/ops/linear/checks.h"
#include "mamba/ops/product/product.h"
#ifndef __APPLE__
#include "mamba/ops/linear/forward.h"
#endif

namespace mamba::ops {

namespace mx = mlx::core;

namespace {

// Where MLX's own product is fast: GPUs, and Accelerate. Its 16-bit products sum in float32 but give 16 bits.
mx::array linear_matmul(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                        const LinearOptions& options, mx::Stream stream) {
  const mx::Dtype out_dtype = options.out_dtype.value_or(x.dtype());
  const mx::Dtype dtype = x.dtype() == weight.dtype() && x.dtype() == out_dtype ? x.dtype() : mx::float32;
  mx::array rows = mx::astype(x, dtype, stream);
  if (options.spans) {
    rows = keep_spans(rows, *options.spans, stream);
  }
  const mx::array factor = mx::astype(weight, dtype, stream);
  // Numbers of 16 bits are no longer than those of TF32, but their product's gradient is.
  const bool short_weight = options.short_weight || weight.dtype() != mx::float32;
  const bool exact = x.dtype() != mx::float32 && short_weight && !x.is_tracer() && !weight.is_tracer();
  if (dtype == mx::float32 && !exact && splits_products(stream)) {
    const bool traced = rows.is_tracer() || factor.is_tracer();
    mx::array y = options.operand != nullptr && !traced ? rows_times_transposed(rows, *options.operand, stream)
                                                        : rows_times_transposed(rows, factor, stream);
    if (bias) {
      y = mx::add(y, mx::astype(*bias, dtype, stream), stream);
    }
    return finished_product(std::move(y), bias.has_value(), options, out_dtype, stream);
  }
  const mx::array columns = options.operand != nullptr && weight.dtype() == dtype ? options.operand->transposed(stream)
                                                                                  : mx::transpose(factor, stream);
  mx::array y = bias ? mx::addmm(mx::astype(*bias, dtype, stream), rows, columns, 1.0f, 1.0f, stream)
                     : mx::matmul(rows, columns, stream);
  return finished_product(std::move(y), bias.has_value(), options, out_dtype, stream);
}

}  // namespace

mx::array linear(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                 const LinearOptions& options, mx::StreamOrDevice s) {
  check_linear(x, weight, bias, options);
  const mx::Stream stream = mx::to_stream(s);
#ifndef __APPLE__
  if (on_cpu(stream)) {
    return linear_detail::forward(x, weight, bias, options, stream);
  }
#endif
  return linear_matmul(x, weight, bias, options, stream);
}

}  // namespace mamba::ops
