// For tests: linear_cross_entropy's GPU kernels as host C++.
#pragma once

namespace mamba::ops::linear_cross_entropy_detail {

// After this, gpu_log_probability() runs on CPU streams.
void use_host_kernels();

}  // namespace mamba::ops::linear_cross_entropy_detail
