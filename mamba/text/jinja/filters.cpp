// What stands behind "|".
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "mamba/base/error.h"
#include "mamba/text/jinja/interpreter.h"
#include "mamba/text/jinja/strings.h"

namespace mamba::text::jinja {
namespace {

using Filter = Value (*)(Interpreter& interpreter, const Value& value, const Arguments& arguments);

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

Value length(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("length", arguments, {});
  if (const std::string* text = value.string()) {
    return character_count(*text);
  }
  const Dict* dict = value.dict();
  return static_cast<int64_t>(dict != nullptr ? dict->items.size() : elements_of(value).size());
}

Value default_value(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("default", arguments, {"default_value", "boolean"});
  const Value* fallback = reader.find("default_value");
  const bool replace = value.is_undefined() || (reader.flag("boolean", false) && !value.truth());
  return !replace ? value : fallback != nullptr ? *fallback : Value("");
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

Value to_json(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  check(reader.find("separators") == nullptr && !reader.flag("ensure_ascii", false),
        "tojson's separators and ensure_ascii are not supported");
  const Value* indent = reader.find("indent");
  const bool lines = indent != nullptr && !indent->is_none();
  const int64_t width = lines ? reader.integer("indent", 0) : -1;
  check(width <= 16, "tojson's indent is {}, more than makes sense", width);
  std::string out =
      value.json(static_cast<int>(lines ? std::max<int64_t>(width, 0) : -1), reader.flag("sort_keys", false));
  interpreter.charge(out.size() / 16);
  return out;
}

Value to_integer(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("int", arguments, {"default"});
  const int64_t fallback = reader.integer("default", 0);
  if (value.is_number()) {
    if (value.get<int64_t>() != nullptr) {
      return value;
    }
    const double number = value.number();
    return std::abs(number) < 9e18 ? static_cast<int64_t>(number) : fallback;
  }
  if (value.string() == nullptr) {
    return fallback;
  }
  std::string text = stripped(*value.string(), nullptr, true, true);
  text.erase(0, text.starts_with('+') ? 1 : 0);
  int64_t out = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error == std::errc() && end == text.data() + text.size()) {
    return out;
  }
  char* stop = nullptr;
  const double number = std::strtod(text.c_str(), &stop);
  return !text.empty() && *stop == '\0' && std::abs(number) < 9e18 ? static_cast<int64_t>(number) : fallback;
}

Value to_float(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("float", arguments, {"default"});
  const Value* fallback = reader.find("default");
  if (value.is_number()) {
    return value.number();
  }
  if (value.string() != nullptr) {
    const std::string text = stripped(*value.string(), nullptr, true, true);
    char* stop = nullptr;
    const double number = std::strtod(text.c_str(), &stop);
    if (!text.empty() && *stop == '\0') {
      return number;
    }
  }
  return fallback != nullptr ? *fallback : Value(0.0);
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

Value indented(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("indent", arguments, {"width", "first", "blank"});
  const Value* width = reader.find("width");
  const std::string margin =
      width != nullptr && width->string() != nullptr
          ? *width->string()
          : std::string(static_cast<size_t>(std::clamp<int64_t>(reader.integer("width", 4), 0, 256)), ' ');
  const std::string text = value.str();
  std::string out = reader.flag("first", false) ? margin : "";
  for (size_t at = 0; at < text.size(); ++at) {
    out += text[at];
    const bool blank = at + 1 >= text.size() || text[at + 1] == '\n';
    if (text[at] == '\n' && (!blank || (reader.flag("blank", false) && at + 1 < text.size()))) {
      out += margin;
    }
    check(out.size() <= kMaxLength, "a text becomes longer than {} bytes", kMaxLength);
  }
  return out;
}

Value rounded(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("round", arguments, {"precision", "method"});
  check(value.is_number(), "round needs a number but got {}", value.type_name());
  const double scale =
      std::pow(10.0, static_cast<double>(std::clamp<int64_t>(reader.integer("precision", 0), -18, 18)));
  const std::string method = reader.find("method") != nullptr ? reader.string("method") : "common";
  const double scaled = value.number() * scale;
  // Python rounds halves to the even neighbour.
  return (method == "ceil"    ? std::ceil(scaled)
          : method == "floor" ? std::floor(scaled)
                              : std::nearbyint(scaled)) /
         scale;
}

Value escaped(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("escape", arguments, {});
  std::string out;
  for (const char c : value.str()) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

Value absolute(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("abs", arguments, {});
  check(value.is_number(), "abs needs a number but got {}", value.type_name());
  return value.number() < 0 ? arithmetic("-", int64_t{0}, value) : value;
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

Value replace(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("replace", arguments, {"old", "new", "count"});
  const Value* count = reader.find("count");
  return replaced(value.str(), reader.string("old"), reader.string("new"),
                  count == nullptr || count->is_none() ? -1 : reader.integer("count", -1));
}

template <Case kCase>
Value cased(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("a filter of case", arguments, {});
  return in_case(value.str(), kCase);
}

// Unlike the method, the filter knows which characters stand before a word.
Value titled(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader reader("title", arguments, {});
  const std::string text = value.str();
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find_first_of("- \t\n\r\v\f({[<", at), text.size());
    out += in_case(std::string_view(text).substr(at, end - at), Case::kCapitalized);
    out += text.substr(end, 1);
    at = end + 1;
  }
  return out;
}

struct Row {
  std::string_view name;
  Filter apply;
};

constexpr Row kFilters[] = {
    {"trim",
     [](Interpreter&, const Value& v, const Arguments& a) -> Value {
       const ArgumentReader reader("trim", a, {"chars"});
       const Value* chars = reader.find("chars");
       return stripped(v.str(), chars == nullptr || chars->is_none() ? nullptr : chars, true, true);
     }},
    {"length", length},
    {"count", length},
    {"default", default_value},
    {"d", default_value},
    {"join", join},
    {"first", [](Interpreter&, const Value& v, const Arguments& a) { return first_or_last("first", v, a, true); }},
    {"last", [](Interpreter&, const Value& v, const Arguments& a) { return first_or_last("last", v, a, false); }},
    {"tojson", to_json},
    {"upper", cased<Case::kUpper>},
    {"lower", cased<Case::kLower>},
    {"title", titled},
    {"capitalize", cased<Case::kCapitalized>},
    {"string", [](Interpreter&, const Value& v, const Arguments&) -> Value { return v.str(); }},
    {"int", to_integer},
    {"float", to_float},
    {"list", [](Interpreter&, const Value& v, const Arguments&) { return Value::list(elements_of(v)); }},
    {"items",
     [](Interpreter& i, const Value& v, const Arguments&) {
       return v.is_undefined() ? Value::list({}) : i.call(attribute_of(v, "items"), {});
     }},
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
    {"indent", indented},
    {"round", rounded},
    {"replace", replace},
    {"abs", absolute},
    {"sum", sum},
    {"escape", escaped},
    {"e", escaped},
    {"safe", [](Interpreter&, const Value& v, const Arguments&) { return v; }},
};

}  // namespace

Value apply_filter(Interpreter& interpreter, const std::string& name, const Arguments& arguments) {
  const auto* row =
      std::find_if(std::begin(kFilters), std::end(kFilters), [&](const Row& r) { return r.name == name; });
  check(row != std::end(kFilters), "there is no filter {}", quote(name));
  const Value& value = arguments.positional.at(0);
  Arguments rest{{arguments.positional.begin() + 1, arguments.positional.end()}, arguments.named};
  interpreter.charge(value.string() != nullptr ? 1 + value.string()->size() / 16 : 1);
  return row->apply(interpreter, value, rest);
}

}  // namespace mamba::text::jinja
