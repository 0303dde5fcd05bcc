// For tests: adamw's GPU kernel as host C++.
#pragma once

namespace mamba::ops::adamw_detail {

// After this, gpu_update() runs on CPU streams.
void use_host_kernels();

}  // namespace mamba::ops::adamw_detail
