// For tests: rms_norm's GPU kernels as host C++.
#pragma once

namespace mamba::ops::norm {

// After this, gpu_norm() runs on CPU streams, for the widths of gpu_test.cpp.
void use_host_kernels();

}  // namespace mamba::ops::norm
