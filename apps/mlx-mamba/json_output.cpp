#include "apps/mlx-mamba/json_output.h"

namespace mamba::cli {

std::string json_line(const OrderedJson& value) {
  return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

}  // namespace mamba::cli
