// For tests: embedding_gradient's GPU kernel as host C++.
#pragma once

namespace mamba::ops::embedding_detail {

void use_host_kernels();

}  // namespace mamba::ops::embedding_detail
