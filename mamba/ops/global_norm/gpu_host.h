// For tests: global_norm's GPU kernel as host C++.
#pragma once

namespace mamba::ops::global_norm_detail {

// After this, gpu_norm() runs on CPU streams.
void use_host_kernels();

}  // namespace mamba::ops::global_norm_detail
