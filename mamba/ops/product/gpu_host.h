// For tests: product's GPU kernel as host C++.
#pragma once

namespace mamba::ops::product_detail {

void use_host_kernels();

}  // namespace mamba::ops::product_detail
