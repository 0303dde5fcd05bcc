#include <mlx/ops.h>

#include <limits>

#include "mamba/ops/linear/linear.h"
#include "mamba/ops/linear_cross_entropy/linear_cross_entropy.h"
#include "mamba/ops/linear_cross_entropy/primitive.h"

namespace mamba::ops {

namespace mx = mlx::core;

mx::array linear_log_probability_reference(const mx::array& x, const mx::array& weight, const mx::array& targets,
                                           int ignore_index, mx::StreamOrDevice s) {
  linear_cross_entropy_detail::check_arguments(x, weight, targets);
  const mx::array ignored = mx::equal(targets, mx::array(ignore_index), s);
  const mx::array known =
      mx::logical_and(mx::greater_equal(targets, mx::array(0), s), mx::less(targets, mx::array(weight.shape(0)), s), s);
  // Rows that do not count are dropped before the product: 0 x NaN would leak into the gradients.
  const mx::array rows = mx::where(mx::expand_dims(known, -1, s), x, mx::array(0, x.dtype()), s);
  const mx::array logits = linear_reference(rows, weight, {}, {.out_dtype = mx::float32}, s);  // (..., N)
  const mx::array at = mx::expand_dims(mx::where(known, targets, mx::array(0), s), -1, s);
  const mx::array chosen = mx::squeeze(mx::take_along_axis(logits, at, -1, s), -1, s);
  const mx::array log_probability = mx::subtract(chosen, mx::logsumexp(logits, -1, false, s), s);
  const mx::array unknown = mx::array(std::numeric_limits<float>::quiet_NaN());
  return mx::where(ignored, mx::array(0.0f), mx::where(known, log_probability, unknown, s), s);
}

}  // namespace mamba::ops
