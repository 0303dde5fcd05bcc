// selective_scan on GPUs: the launches of the kernels in gpu_*.h. Private to this folder; arguments are checked by the
// caller. CPU streams serve tests (ops/gpu/kernel.h).
#pragma once

#include "mamba/ops/selective_scan/gpu_plan.h"
#include "mamba/ops/selective_scan/gradients.h"
#include "mamba/ops/selective_scan/selective_scan.h"

namespace mamba::ops::scan {

// More states than this have no kernel.
constexpr int kMaxGpuStates = 256;

SelectiveScanOutputs gpu_scan(const SelectiveScanInputs& in, const mlx::core::Stream& stream,
                              Dealing dealing = Dealing::kBySize);
SelectiveScanOutputs gpu_step(const SelectiveScanInputs& in, const mlx::core::Stream& stream);

SelectiveScanKept gpu_scan_kept(const SelectiveScanInputs& in, const mlx::core::Stream& stream);
SelectiveScanGradients gpu_scan_gradients(const SelectiveScanInputs& in, const mlx::core::array& gy,
                                          const mlx::core::array& kept, const mlx::core::array& kept_done,
                                          const mlx::core::Stream& stream);

}  // namespace mamba::ops::scan
