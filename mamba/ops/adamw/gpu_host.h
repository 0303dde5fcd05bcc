// For tests: adamw's GPU kernels as host C++.
#pragma once

namespace mamba::ops::adamw_detail {

// After this, gpu_update() and FlatAdamW run on CPU streams.
void use_host_kernels();

}  // namespace mamba::ops::adamw_detail
