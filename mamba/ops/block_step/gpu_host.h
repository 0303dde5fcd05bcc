// For tests: block_step's GPU kernels as host C++.
#pragma once

namespace mamba::ops::step {

// After this, the functions of gpu.h run on CPU streams, with 64 or 256 threads to a group and 4 taps.
void use_host_kernels();

}  // namespace mamba::ops::step
