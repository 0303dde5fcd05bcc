#include "mamba/nn/parameters.h"

namespace mamba::nn {

std::string joined(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : prefix + "." + name;
}

mlx::core::array unset() {
  return mlx::core::array(std::initializer_list<float>{});
}

}  // namespace mamba::nn
