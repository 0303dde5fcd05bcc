// selective_scan as plain MLX operations, one position at a time: the specification, the oracle of the tests, and what
// runs where there is no kernel.
#pragma once

#include "mamba/ops/selective_scan/selective_scan.h"

namespace mamba::ops {

// As selective_scan; works in float64 when u, A and the rest are float64, though MLX's exp has float32's precision
// there too.
SelectiveScanOutputs selective_scan_reference(const SelectiveScanInputs& in, mlx::core::StreamOrDevice s = {});

}  // namespace mamba::ops
