// Tokens into a tree.
#pragma once

#include <string>
#include <string_view>

#include "mamba/text/jinja/ast.h"

namespace mamba::text::jinja {

// The grammar of Jinja but for what needs other templates (include, import, extends, block), recursive loops, call and
// with blocks, which are refused by name. {% generation %} is a group of its own, as transformers has it. Throws
// ParseError "<name>:<line>: message", also for nesting deeper than a template needs.
Body parse(std::string_view source, const std::string& name);

}  // namespace mamba::text::jinja
