// For tests: accumulate's GPU kernel as host C++.
#pragma once

namespace mamba::ops::accumulate_detail {

void use_host_kernels();

}  // namespace mamba::ops::accumulate_detail
