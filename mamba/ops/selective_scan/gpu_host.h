// For tests: selective_scan's GPU kernels as host C++.
#pragma once

namespace mamba::ops::scan {

// After this, gpu_scan() and gpu_step() run on CPU streams.
void use_host_kernels();

}  // namespace mamba::ops::scan
