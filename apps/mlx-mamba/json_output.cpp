#include "apps/mlx-mamba/json_output.h"

namespace mamba::cli {

std::string json_line(const OrderedJson& value) {
  return printable_json(value) + "\n";
}

}  // namespace mamba::cli
