#include <mlx/ops.h>

#include "mamba/ops/linear/checks.h"
#include "mamba/ops/linear/linear.h"

namespace mamba::ops {

namespace mx = mlx::core;

mx::array linear_reference(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                           const LinearOptions& options, mx::StreamOrDevice s) {
  check_linear(x, weight, bias, options);
  const mx::Dtype out_dtype = options.out_dtype.value_or(x.dtype());
  mx::array rows = mx::astype(x, mx::float32, s);
  if (options.spans) {
    // Rows outside the span are dropped before the product: 0 x NaN would leak into the gradient of the weights.
    rows = keep_spans(rows, *options.spans, s);
  }
  mx::array y = mx::matmul(rows, mx::transpose(mx::astype(weight, mx::float32, s), s), s);
  if (bias) {
    y = mx::add(y, mx::astype(*bias, mx::float32, s), s);
  }
  if (options.low_rank) {
    mx::array u = options.low_rank->u;
    if (options.spans) {
      u = keep_spans(u, *options.spans, s);
    }
    const mx::array V = mx::astype(options.low_rank->V, mx::float32, s);
    y = mx::add(y, mx::matmul(u, mx::transpose(V, s), s), s);
  }
  if (options.spans) {
    y = keep_spans(y, *options.spans, s);
  }
  return mx::astype(y, out_dtype, s);
}

}  // namespace mamba::ops
