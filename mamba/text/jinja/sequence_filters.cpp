// Filters that work on the elements of a value.
#include <algorithm>
#include <charconv>

#include "mamba/base/error.h"
#include "mamba/text/jinja/filters.h"
#include "mamba/text/jinja/interpreter.h"
#include "mamba/text/jinja/strings.h"

namespace mamba::text::jinja {
namespace {

// "a.b" of each item, or the item itself for an empty path.
Value path_of(const Value& item, const std::string& path) {
  Value out = item;
  for (const std::string& name : path.empty() ? std::vector<std::string>() : split_text(path, ".", -1, false)) {
    int64_t index = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
    const bool whole = error == std::errc() && end == name.data() + name.size() && !name.empty();
    out = item_of(out, whole ? Value(index) : Value(name));
  }
  return out;
}

Value join(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("join", arguments, {"d", "attribute"});
  const std::string between = reader.find("d") != nullptr ? reader.required("d").str() : "";
  const std::string path = reader.find("attribute") != nullptr ? reader.string("attribute") : "";
  std::string out;
  bool first = true;
  for (const Value& item : elements_of(value)) {
    out += (first ? "" : between) + path_of(item, path).str();
    check(out.size() <= kMaxLength, "a text becomes longer than {} bytes", kMaxLength);
    first = false;
  }
  return out;
}

Value first_or_last(const char* name, const Value& value, const Arguments& arguments, bool first) {
  const ArgumentReader reader(name, arguments, {});
  const std::vector<Value> items = elements_of(value);
  return items.empty() ? Value(Undefined{name}) : first ? items.front() : items.back();
}

// select, reject, selectattr and rejectattr.
Value selected(Interpreter& interpreter, const Value& value, const Arguments& arguments, bool by_attribute, bool keep) {
  const auto& given = arguments.positional;
  const size_t skip = by_attribute ? 1 : 0;
  check(given.size() >= skip && arguments.named.empty(), "selectattr and rejectattr need an attribute's name");
  std::vector<Value> out;
  for (const Value& item : elements_of(value)) {
    interpreter.charge();
    const Value subject = by_attribute ? path_of(item, given[0].str()) : item;
    bool holds = subject.truth();
    if (given.size() > skip) {
      Arguments of_test;
      of_test.positional = {subject};
      of_test.positional.insert(of_test.positional.end(), given.begin() + static_cast<ptrdiff_t>(skip) + 1,
                                given.end());
      holds = apply_test(given[skip].str(), of_test);
    }
    if (holds == keep) {
      out.push_back(item);
    }
  }
  return Value::list(std::move(out));
}

Value map(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  std::vector<Value> out;
  if (arguments.positional.empty()) {
    const ArgumentReader reader("map", arguments, {"attribute", "default"});
    const std::string path = reader.required("attribute").str();
    const Value* fallback = reader.find("default");
    for (const Value& item : elements_of(value)) {
      Value found = path_of(item, path);
      out.push_back(found.is_undefined() && fallback != nullptr ? *fallback : std::move(found));
    }
    return Value::list(std::move(out));
  }
  Arguments rest{arguments.positional, arguments.named};
  const std::string name = arguments.positional[0].str();
  for (const Value& item : elements_of(value)) {
    interpreter.charge();
    rest.positional[0] = item;
    out.push_back(apply_filter(interpreter, name, rest));
  }
  return Value::list(std::move(out));
}

// Text without regard to case, as Jinja's filters compare it unless told otherwise.
Value comparable(const Value& value, bool case_sensitive) {
  return value.string() != nullptr && !case_sensitive ? Value(in_case(*value.string(), Case::kLower)) : value;
}

Value sorted(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const Value* attribute = reader.find("attribute");
  const std::string path = attribute == nullptr || attribute->is_none() ? "" : attribute->str();
  std::vector<std::pair<Value, Value>> items;
  for (const Value& item : elements_of(value)) {
    items.emplace_back(comparable(path_of(item, path), reader.flag("case_sensitive", false)), item);
  }
  interpreter.charge(items.size() * 8);
  const bool reverse = reader.flag("reverse", false);
  std::stable_sort(items.begin(), items.end(), [&](const auto& a, const auto& b) {
    return reverse ? ordering(b.first, a.first) < 0 : ordering(a.first, b.first) < 0;
  });
  std::vector<Value> out;
  for (auto& item : items) {
    out.push_back(std::move(item.second));
  }
  return Value::list(std::move(out));
}

Value dict_sorted(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  check(value.dict() != nullptr, "dictsort needs a dictionary but got {}", value.type_name());
  std::vector<Value> items;
  for (const auto& [key, item] : value.dict()->items) {
    items.push_back(Value::list({key, item}, true));
  }
  const bool by_value = reader.find("by") != nullptr && reader.string("by") == "value";
  Arguments of_sort;
  of_sort.named = {{"reverse", reader.flag("reverse", false)},
                   {"case_sensitive", reader.flag("case_sensitive", false)},
                   {"attribute", by_value ? "1" : "0"}};
  return sorted(interpreter, Value::list(std::move(items)), of_sort);
}

Value unique(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("unique", arguments, {"case_sensitive"});
  std::vector<Value> seen;
  std::vector<Value> out;
  for (const Value& item : elements_of(value)) {
    Value key = comparable(item, reader.flag("case_sensitive", false));
    interpreter.charge(seen.size());
    if (std::find(seen.begin(), seen.end(), key) == seen.end()) {
      seen.push_back(std::move(key));
      out.push_back(item);
    }
  }
  return Value::list(std::move(out));
}

Value extreme(const char* name, const Value& value, const Arguments& arguments, int wanted) {
  const ArgumentReader reader(name, arguments, {});
  const std::vector<Value> items = elements_of(value);
  if (items.empty()) {
    return Undefined{name};
  }
  size_t best = 0;
  for (size_t i = 1; i < items.size(); ++i) {
    if (ordering(comparable(items[i], false), comparable(items[best], false)) == wanted) {
      best = i;
    }
  }
  return items[best];
}

Value reversed(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("reverse", arguments, {});
  std::vector<Value> items = elements_of(value);
  std::reverse(items.begin(), items.end());
  if (value.string() == nullptr) {
    return Value::list(std::move(items));
  }
  std::string out;
  for (const Value& character : items) {
    out += *character.string();
  }
  return out;
}

Value sum(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("sum", arguments, {"attribute", "start"});
  const Value* attribute = reader.find("attribute");
  Value out = reader.find("start") != nullptr ? reader.required("start") : Value(int64_t{0});
  for (const Value& item : elements_of(value)) {
    out = arithmetic("+", out, path_of(item, attribute == nullptr || attribute->is_none() ? "" : attribute->str()));
  }
  return out;
}

constexpr FilterRow kFilters[] = {
    {"join", join},
    {"first", [](Interpreter&, const Value& v, const Arguments& a) { return first_or_last("first", v, a, true); }},
    {"last", [](Interpreter&, const Value& v, const Arguments& a) { return first_or_last("last", v, a, false); }},
    {"select", [](Interpreter& i, const Value& v, const Arguments& a) { return selected(i, v, a, false, true); }},
    {"reject", [](Interpreter& i, const Value& v, const Arguments& a) { return selected(i, v, a, false, false); }},
    {"selectattr", [](Interpreter& i, const Value& v, const Arguments& a) { return selected(i, v, a, true, true); }},
    {"rejectattr", [](Interpreter& i, const Value& v, const Arguments& a) { return selected(i, v, a, true, false); }},
    {"map", map},
    {"sort", sorted},
    {"dictsort", dict_sorted},
    {"unique", unique},
    {"min", [](Interpreter&, const Value& v, const Arguments& a) { return extreme("min", v, a, -1); }},
    {"max", [](Interpreter&, const Value& v, const Arguments& a) { return extreme("max", v, a, 1); }},
    {"reverse", reversed},
    {"sum", sum},
};

}  // namespace

std::span<const FilterRow> sequence_filters() {
  return kFilters;
}

}  // namespace mamba::text::jinja
