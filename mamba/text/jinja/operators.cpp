// What operators and subscripts do to values, as Python defines it.
#include <algorithm>
#include <cmath>

#include "mamba/base/error.h"
#include "mamba/text/jinja/interpreter.h"

namespace mamba::text::jinja {
namespace {

bool is_whole(const Value& value) {
  return value.get<int64_t>() != nullptr || value.get<bool>() != nullptr;
}

int64_t whole(const Value& value) {
  const auto* number = value.get<int64_t>();
  return number != nullptr ? *number : (*value.get<bool>() ? 1 : 0);
}

[[noreturn]] void fail(std::string_view op, const Value& left, const Value& right) {
  for (const Value* side : {&left, &right}) {
    if (const auto* missing = side->get<Undefined>()) {
      throw Error(fmt::format("{} is undefined", quote(missing->name)));
    }
  }
  throw Error(fmt::format("\"{}\" does not work on {} and {}", op, left.type_name(), right.type_name()));
}

int64_t floor_divided(int64_t a, int64_t b) {
  const int64_t quotient = a / b;
  return quotient - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

Value whole_arithmetic(std::string_view op, int64_t a, int64_t b) {
  int64_t out = 0;
  bool overflows = false;
  if (op == "+") {
    overflows = __builtin_add_overflow(a, b, &out);
  } else if (op == "-") {
    overflows = __builtin_sub_overflow(a, b, &out);
  } else if (op == "*") {
    overflows = __builtin_mul_overflow(a, b, &out);
  } else if (op == "**") {
    if (b < 0) {
      return std::pow(static_cast<double>(a), static_cast<double>(b));
    }
    check(b <= 64 || (a >= -1 && a <= 1), "a number becomes too large");
    out = 1;
    const int64_t times = a >= -1 && a <= 1 ? b % 2 + (b > 1 ? 2 : 0) : b;
    for (int64_t i = 0; i < times && !overflows; ++i) {
      overflows = __builtin_mul_overflow(out, a, &out);
    }
  } else {
    check(b != 0, "division by zero");
    overflows = a == INT64_MIN && b == -1;
    if (!overflows) {
      const int64_t quotient = floor_divided(a, b);
      out = op == "//" ? quotient : a - quotient * b;
    }
  }
  check(!overflows, "a number becomes too large");
  return out;
}

std::vector<Value> joined(const std::vector<Value>& a, const std::vector<Value>& b) {
  std::vector<Value> out = a;
  out.insert(out.end(), b.begin(), b.end());
  return out;
}

Value repeated(const Value& value, int64_t times) {
  const auto count = static_cast<size_t>(std::max<int64_t>(times, 0));
  const size_t size = value.string() != nullptr ? value.string()->size() : value.list()->items.size() * sizeof(Value);
  check(size == 0 || count <= kMaxLength / size, "a repeated value becomes too long");
  if (const std::string* text = value.string()) {
    std::string out;
    for (size_t i = 0; i < count && size > 0; ++i) {
      out += *text;
    }
    return out;
  }
  std::vector<Value> out;
  for (size_t i = 0; i < count && size > 0; ++i) {
    out.insert(out.end(), value.list()->items.begin(), value.list()->items.end());
  }
  return Value::list(std::move(out), value.list()->is_tuple);
}

}  // namespace

Value arithmetic(std::string_view op, const Value& left, const Value& right) {
  if (left.is_number() && right.is_number()) {
    if (op != "/" && is_whole(left) && is_whole(right)) {
      return whole_arithmetic(op, whole(left), whole(right));
    }
    const double a = left.number();
    const double b = right.number();
    if (op == "+" || op == "-" || op == "*") {
      return op == "+" ? a + b : op == "-" ? a - b : a * b;
    }
    if (op == "**") {
      return std::pow(a, b);
    }
    check(b != 0, "division by zero");
    return op == "/" ? a / b : op == "//" ? std::floor(a / b) : a - std::floor(a / b) * b;
  }
  if (op == "+" && left.string() != nullptr && right.string() != nullptr) {
    return *left.string() + *right.string();
  }
  if (op == "+" && left.list() != nullptr && right.list() != nullptr) {
    return Value::list(joined(left.list()->items, right.list()->items), left.list()->is_tuple);
  }
  if (op == "*" && (left.string() != nullptr || left.list() != nullptr) && is_whole(right)) {
    return repeated(left, whole(right));
  }
  if (op == "*" && (right.string() != nullptr || right.list() != nullptr) && is_whole(left)) {
    return repeated(right, whole(left));
  }
  fail(op, left, right);
}

bool contains(const Value& container, const Value& item) {
  if (const std::string* text = container.string()) {
    if (item.string() == nullptr) {
      fail("in", item, container);
    }
    return text->find(*item.string()) != std::string::npos;
  }
  if (const Dict* dict = container.dict()) {
    return item.string() != nullptr && dict->find(*item.string()) != nullptr;
  }
  if (const List* list = container.list()) {
    return std::find(list->items.begin(), list->items.end(), item) != list->items.end();
  }
  if (!container.is_undefined()) {
    fail("in", item, container);
  }
  return false;
}

int ordering(const Value& left, const Value& right) {
  if (left.is_number() && right.is_number()) {
    if (is_whole(left) && is_whole(right)) {
      return whole(left) < whole(right) ? -1 : whole(left) > whole(right) ? 1 : 0;
    }
    return left.number() < right.number() ? -1 : left.number() > right.number() ? 1 : 0;
  }
  if (left.string() != nullptr && right.string() != nullptr) {
    const int order = left.string()->compare(*right.string());
    return order < 0 ? -1 : order > 0 ? 1 : 0;
  }
  if (left.list() != nullptr && right.list() != nullptr) {
    const auto& a = left.list()->items;
    const auto& b = right.list()->items;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      if (!(a[i] == b[i])) {
        return ordering(a[i], b[i]);
      }
    }
    return a.size() < b.size() ? -1 : a.size() > b.size() ? 1 : 0;
  }
  fail("<", left, right);
}

Value item_of(const Value& value, const Value& key) {
  if (const auto* missing = value.get<Undefined>()) {
    throw Error(fmt::format("{} is undefined", quote(missing->name)));
  }
  if (const Dict* dict = value.dict(); dict != nullptr && key.string() != nullptr) {
    if (const Value* found = dict->find(*key.string())) {
      return *found;
    }
  }
  if (key.string() != nullptr) {
    return attribute_of(value, *key.string());
  }
  const bool sequence = value.list() != nullptr || value.string() != nullptr;
  if (sequence && is_whole(key)) {
    const std::vector<Value> items = value.list() != nullptr ? std::vector<Value>() : elements_of(value);
    const std::vector<Value>& all = value.list() != nullptr ? value.list()->items : items;
    const auto size = static_cast<int64_t>(all.size());
    const int64_t index = whole(key);
    if (index >= -size && index < size) {
      return all[static_cast<size_t>(index < 0 ? index + size : index)];
    }
  }
  return Undefined{key.str()};
}

}  // namespace mamba::text::jinja
