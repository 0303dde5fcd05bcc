// For tests: causal_conv1d's GPU kernels as host C++.
#pragma once

namespace mamba::ops::conv {

// After this, gpu_conv() and gpu_step() run on CPU streams, for 1 to 5 taps.
void use_host_kernels();

}  // namespace mamba::ops::conv
