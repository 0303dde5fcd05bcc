// For tests: choose_token's GPU kernel as host C++.
#pragma once

namespace mamba::ops::token {

// After this, gpu_choose() runs on CPU streams, with 64 threads.
void use_host_kernels();

}  // namespace mamba::ops::token
