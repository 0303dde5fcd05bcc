// JSON for standard output: valid UTF-8 and one line, whatever bytes the strings hold.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace mamba::cli {

using OrderedJson = nlohmann::ordered_json;

// One line with its newline. Ill-formed bytes in strings become U+FFFD; numbers that are not finite become null.
std::string json_line(const OrderedJson& value);

}  // namespace mamba::cli
