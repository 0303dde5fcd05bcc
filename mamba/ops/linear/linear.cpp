#include "mamba/ops/linear/linear.h"

#include <mlx/ops.h>

#include "mamba/ops/linear/checks.h"

namespace mamba::ops {

namespace mx = mlx::core;

mx::array linear(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                 const LinearOptions& options, mx::StreamOrDevice s) {
  return linear_reference(x, weight, bias, options, s);
}

}  // namespace mamba::ops
