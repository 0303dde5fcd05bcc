// The two tables of filters; for their files alone.
#pragma once

#include <span>
#include <string_view>

#include "mamba/text/jinja/value.h"

namespace mamba::text::jinja {

struct FilterRow {
  std::string_view name;
  Value (*apply)(Interpreter& interpreter, const Value& value, const Arguments& arguments);
};

// Those that work on the elements of a value.
std::span<const FilterRow> sequence_filters();

}  // namespace mamba::text::jinja
