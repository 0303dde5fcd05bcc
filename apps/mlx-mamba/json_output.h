// JSON for standard output: valid UTF-8 and one line, whatever bytes the strings hold.
#pragma once

#include <string>

#include "mamba/base/json.h"

namespace mamba::cli {

// One line with its newline. Ill-formed bytes in strings become U+FFFD; numbers that are not finite become null.
std::string json_line(const OrderedJson& value);

}  // namespace mamba::cli
