// A template as a tree.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "mamba/text/jinja/value.h"

namespace mamba::text::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    kLiteral,      // literal
    kName,         // name
    kList,         // parts
    kTuple,        // parts
    kDict,         // parts: key, value, key, value, ...
    kAttribute,    // parts[0].name
    kSubscript,    // parts[0][parts[1]]
    kSlice,        // parts[0][parts[1]:parts[2]:parts[3]], null where left out
    kCall,         // parts[0](parts[1], ..., named)
    kFilter,       // parts[0] | name(parts[1], ..., named)
    kTest,         // parts[0] is name(parts[1], ...)
    kUnary,        // name parts[0]: -, +, not
    kBinary,       // parts[0] name parts[1]: + - * / // % ** ~ and or
    kCompare,      // parts[0] operators[0] parts[1] operators[1] parts[2] ...
    kConditional,  // parts[1] if parts[0] else parts[2], null where left out
  };
  Kind kind;
  int line;
  int depth = 1;  // of chained operators
  std::string name;
  Value literal;
  std::vector<ExpressionPtr> parts;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  std::vector<std::string> operators;  // == != < <= > >= in "not in"
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Statement {
  enum class Kind {
    kText,      // text
    kOutput,    // {{ value }}
    kIf,        // value, body, otherwise
    kFor,       // for targets in value if condition: body, otherwise
    kSet,       // targets or owner.targets[0] = value
    kSetBlock,  // targets[0] = body, filtered
    kMacro,     // text(targets with defaults): body
    kFilter,    // body, filtered
    kBreak,
    kContinue,
    kGroup,  // body
  };
  Kind kind;
  int line;
  std::string text;
  std::string owner;                 // of an attribute that is set: a namespace's name
  std::vector<std::string> targets;  // names; several unpack a sequence
  ExpressionPtr value;               // for filters: a chain that begins at the name ""
  ExpressionPtr condition;
  std::vector<ExpressionPtr> defaults;  // of the last targets
  Body body;
  Body otherwise;
};

}  // namespace mamba::text::jinja
