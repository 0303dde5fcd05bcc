// The interpreter's expressions.
#include <algorithm>

#include "mamba/base/error.h"
#include "mamba/text/jinja/interpreter.h"

namespace mamba::text::jinja {

Value Interpreter::evaluate_parts(const Expression& expression) {
  using Kind = Expression::Kind;
  const auto& parts = expression.parts;
  const auto part = [&](size_t i) { return evaluate(*parts[i]); };
  switch (expression.kind) {
    case Kind::kLiteral:
      return expression.literal;
    case Kind::kName:
      return lookup(expression.name);
    case Kind::kList:
    case Kind::kTuple: {
      std::vector<Value> items;
      for (const auto& item : parts) {
        items.push_back(evaluate(*item));
      }
      return Value::list(std::move(items), expression.kind == Kind::kTuple);
    }
    case Kind::kDict: {
      Dict dict;
      for (size_t i = 0; i < parts.size(); i += 2) {
        const Value key = part(i);
        check(key.string() != nullptr, "the keys of a dictionary must be strings");
        dict.set(*key.string(), part(i + 1));
      }
      return Value::dict(std::move(dict.items));
    }
    case Kind::kAttribute:
      return attribute_of(part(0), expression.name);
    case Kind::kSubscript:
      return item_of(part(0), part(1));
    case Kind::kSlice:
      return slice(expression);
    case Kind::kCall: {
      const Value callee = part(0);
      Arguments arguments = arguments_of(expression);
      arguments.positional.erase(arguments.positional.begin());
      return call(callee, arguments);
    }
    case Kind::kFilter:
      return apply_filter(*this, expression.name, arguments_of(expression));
    case Kind::kTest:
      return apply_test(expression.name, arguments_of(expression));
    case Kind::kUnary: {
      const Value value = part(0);
      if (expression.name == "not") {
        return !value.truth();
      }
      return expression.name == "-" ? arithmetic("-", int64_t{0}, value) : arithmetic("+", int64_t{0}, value);
    }
    case Kind::kBinary:
      return binary(expression);
    case Kind::kCompare:
      return compare(expression);
    case Kind::kConditional:
      return part(0).truth() ? part(1)
             : parts[2]      ? part(2)
                             : Value(Undefined{"the conditional expression without else"});
  }
  return {};
}

Arguments Interpreter::arguments_of(const Expression& expression) {
  Arguments out;
  // A call's first part is what is called, and is left to the caller.
  const bool is_call = expression.kind == Expression::Kind::kCall;
  for (size_t i = 0; i < expression.parts.size(); ++i) {
    out.positional.push_back(is_call && i == 0 ? Value() : evaluate(*expression.parts[i]));
  }
  for (const auto& [name, value] : expression.named) {
    out.named.emplace_back(name, evaluate(*value));
  }
  return out;
}

Value Interpreter::binary(const Expression& expression) {
  const std::string& op = expression.name;
  Value left = evaluate(*expression.parts[0]);
  if (op == "and" || op == "or") {
    return left.truth() == (op == "and") ? evaluate(*expression.parts[1]) : left;
  }
  const Value right = evaluate(*expression.parts[1]);
  Value out = op == "~" ? Value(left.str() + right.str()) : arithmetic(op, left, right);
  if (const std::string* text = out.string()) {
    check(text->size() <= kMaxLength, "a text becomes longer than {} bytes", kMaxLength);
    charge(text->size() / 64);
  } else if (const List* list = out.list()) {
    charge(list->items.size());
  }
  return out;
}

Value Interpreter::compare(const Expression& expression) {
  Value left = evaluate(*expression.parts[0]);
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    const std::string& op = expression.operators[i];
    Value right = evaluate(*expression.parts[i + 1]);
    bool holds = false;
    if (op == "==" || op == "!=") {
      holds = (left == right) == (op == "==");
    } else if (op == "in" || op == "not in") {
      holds = contains(right, left) == (op == "in");
    } else {
      const int order = ordering(left, right);
      holds = op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0;
    }
    if (!holds) {
      return false;
    }
    left = std::move(right);
  }
  return true;
}

Value Interpreter::slice(const Expression& expression) {
  const Value subject = evaluate(*expression.parts[0]);
  check(subject.list() != nullptr || subject.string() != nullptr, "a value of type {} cannot be sliced",
        subject.type_name());
  const std::vector<Value> items = elements_of(subject);
  charge(items.size() / 16);
  const auto size = static_cast<int64_t>(items.size());
  const auto bound = [&](size_t i, int64_t fallback) {
    const Value value = expression.parts[i] ? evaluate(*expression.parts[i]) : Value(nullptr);
    if (value.is_none()) {
      return fallback;
    }
    check(value.get<int64_t>() != nullptr, "a slice's bounds must be integers");
    return *value.get<int64_t>();
  };
  const int64_t step = bound(3, 1);
  check(step != 0, "a slice's step cannot be 0");
  const int64_t lowest = step > 0 ? 0 : -1;
  const int64_t highest = step > 0 ? size : size - 1;
  const auto clamped = [&](int64_t value) { return std::clamp(value < 0 ? value + size : value, lowest, highest); };
  const int64_t start = expression.parts[1] ? clamped(bound(1, step > 0 ? 0 : size - 1)) : (step > 0 ? 0 : size - 1);
  // A stop before the first element cannot be written as a number.
  const Value stop_value = expression.parts[2] ? evaluate(*expression.parts[2]) : Value(nullptr);
  const int64_t stop = stop_value.is_none() ? (step > 0 ? size : -1) : clamped(bound(2, 0));
  std::vector<Value> out;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    out.push_back(items[static_cast<size_t>(i)]);
    if (step > size || step < -size) {
      break;  // and i + step might overflow
    }
    i += step;
  }
  if (subject.string() == nullptr) {
    return Value::list(std::move(out), subject.list()->is_tuple);
  }
  std::string text;
  for (const Value& character : out) {
    text += *character.string();
  }
  return text;
}

}  // namespace mamba::text::jinja
