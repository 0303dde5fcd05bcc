// The methods of Python's strings, lists and dictionaries that templates call.
#include <algorithm>
#include <array>

#include "mamba/base/error.h"
#include "mamba/text/jinja/interpreter.h"
#include "mamba/text/jinja/strings.h"

namespace mamba::text::jinja {
namespace {

using Method = Value (*)(const Value& self, const Arguments& arguments);
struct Row {
  std::string_view name;
  Method call;
};

bool has_affix(const std::string& text, const Value& affix, bool at_start) {
  if (const List* list = affix.list()) {
    return std::any_of(list->items.begin(), list->items.end(),
                       [&](const Value& item) { return has_affix(text, item, at_start); });
  }
  check(affix.string() != nullptr, "{} needs a string or a tuple of strings", at_start ? "startswith" : "endswith");
  return at_start ? text.starts_with(*affix.string()) : text.ends_with(*affix.string());
}

Value stripped_by(const Value& self, const Arguments& arguments, const char* name, bool left, bool right) {
  const ArgumentReader reader(name, arguments, {"chars"});
  const Value* chars = reader.find("chars");
  return stripped(*self.string(), chars == nullptr || chars->is_none() ? nullptr : &reader.required("chars"), left,
                  right);
}

Value split(const Value& self, const Arguments& arguments, bool from_right) {
  const ArgumentReader reader(from_right ? "rsplit" : "split", arguments, {"sep", "maxsplit"});
  const Value* separator = reader.find("sep");
  std::vector<Value> out;
  for (std::string& part :
       split_text(*self.string(), separator == nullptr || separator->is_none() ? "" : reader.string("sep"),
                  reader.integer("maxsplit", -1), from_right)) {
    out.emplace_back(std::move(part));
  }
  return Value::list(std::move(out));
}

// The place of a string in a string, in characters; -1: none.
int64_t place_of(const Value& self, const Arguments& arguments, const char* name, bool last) {
  const ArgumentReader reader(name, arguments, {"sub"});
  const std::string& text = *self.string();
  const size_t found = last ? text.rfind(reader.string("sub")) : text.find(reader.string("sub"));
  return found == std::string::npos ? -1 : character_count(std::string_view(text).substr(0, found));
}

Value without_arguments(const char* name, const Arguments& arguments, Value value) {
  const ArgumentReader reader(name, arguments, {});
  return value;
}

bool every(const std::string& text, bool (*holds)(char)) {
  return !text.empty() && std::all_of(text.begin(), text.end(), holds);
}

constexpr std::array<Row, 23> kStringMethods = {{
    {"strip", [](const Value& s, const Arguments& a) { return stripped_by(s, a, "strip", true, true); }},
    {"lstrip", [](const Value& s, const Arguments& a) { return stripped_by(s, a, "lstrip", true, false); }},
    {"rstrip", [](const Value& s, const Arguments& a) { return stripped_by(s, a, "rstrip", false, true); }},
    {"split", [](const Value& s, const Arguments& a) { return split(s, a, false); }},
    {"rsplit", [](const Value& s, const Arguments& a) { return split(s, a, true); }},
    {"splitlines",
     [](const Value& s, const Arguments& a) {
       std::vector<Value> out;
       for (std::string& line : split_lines(*s.string())) {
         out.emplace_back(std::move(line));
       }
       return without_arguments("splitlines", a, Value::list(std::move(out)));
     }},
    {"startswith",
     [](const Value& s, const Arguments& a) -> Value {
       return has_affix(*s.string(), ArgumentReader("startswith", a, {"prefix"}).required("prefix"), true);
     }},
    {"endswith",
     [](const Value& s, const Arguments& a) -> Value {
       return has_affix(*s.string(), ArgumentReader("endswith", a, {"suffix"}).required("suffix"), false);
     }},
    {"removeprefix",
     [](const Value& s, const Arguments& a) -> Value {
       const std::string prefix = ArgumentReader("removeprefix", a, {"prefix"}).string("prefix");
       return s.string()->starts_with(prefix) ? s.string()->substr(prefix.size()) : *s.string();
     }},
    {"removesuffix",
     [](const Value& s, const Arguments& a) -> Value {
       const std::string suffix = ArgumentReader("removesuffix", a, {"suffix"}).string("suffix");
       return s.string()->ends_with(suffix) ? s.string()->substr(0, s.string()->size() - suffix.size()) : *s.string();
     }},
    {"upper", [](const Value& s,
                 const Arguments& a) { return without_arguments("upper", a, in_case(*s.string(), Case::kUpper)); }},
    {"lower", [](const Value& s,
                 const Arguments& a) { return without_arguments("lower", a, in_case(*s.string(), Case::kLower)); }},
    {"title", [](const Value& s,
                 const Arguments& a) { return without_arguments("title", a, in_case(*s.string(), Case::kTitle)); }},
    {"capitalize",
     [](const Value& s, const Arguments& a) {
       return without_arguments("capitalize", a, in_case(*s.string(), Case::kCapitalized));
     }},
    {"replace",
     [](const Value& s, const Arguments& a) -> Value {
       const ArgumentReader reader("replace", a, {"old", "new", "count"});
       return replaced(*s.string(), reader.string("old"), reader.string("new"), reader.integer("count", -1));
     }},
    {"join",
     [](const Value& s, const Arguments& a) -> Value {
       std::string out;
       const std::vector<Value> items = elements_of(ArgumentReader("join", a, {"iterable"}).required("iterable"));
       for (size_t i = 0; i < items.size(); ++i) {
         check(items[i].string() != nullptr, "join needs strings but got {}", items[i].type_name());
         out += (i == 0 ? "" : *s.string()) + *items[i].string();
         check(out.size() <= kMaxLength, "a text becomes longer than {} bytes", kMaxLength);
       }
       return out;
     }},
    {"find", [](const Value& s, const Arguments& a) -> Value { return place_of(s, a, "find", false); }},
    {"rfind", [](const Value& s, const Arguments& a) -> Value { return place_of(s, a, "rfind", true); }},
    {"index",
     [](const Value& s, const Arguments& a) -> Value {
       const int64_t place = place_of(s, a, "index", false);
       check(place >= 0, "index: the text does not occur");
       return place;
     }},
    {"count",
     [](const Value& s, const Arguments& a) -> Value {
       const std::string sub = ArgumentReader("count", a, {"sub"}).string("sub");
       if (sub.empty()) {
         return character_count(*s.string()) + 1;
       }
       int64_t count = 0;
       for (size_t at = 0; (at = s.string()->find(sub, at)) != std::string::npos; at += sub.size()) {
         ++count;
       }
       return count;
     }},
    {"isdigit",
     [](const Value& s, const Arguments& a) {
       return without_arguments("isdigit", a, every(*s.string(), [](char c) { return c >= '0' && c <= '9'; }));
     }},
    {"isspace",
     [](const Value& s, const Arguments& a) {
       return without_arguments("isspace", a,
                                !s.string()->empty() && stripped(*s.string(), nullptr, true, true).empty());
     }},
    {"isalpha",
     [](const Value& s, const Arguments& a) {
       return without_arguments(
           "isalpha", a, every(*s.string(), [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }));
     }},
}};

constexpr std::array<Row, 4> kDictMethods = {{
    {"items",
     [](const Value& s, const Arguments& a) {
       std::vector<Value> out;
       for (const auto& [key, value] : s.dict()->items) {
         out.push_back(Value::list({key, value}, true));
       }
       return without_arguments("items", a, Value::list(std::move(out)));
     }},
    {"keys",
     [](const Value& s, const Arguments& a) { return without_arguments("keys", a, Value::list(elements_of(s))); }},
    {"values",
     [](const Value& s, const Arguments& a) {
       std::vector<Value> out;
       for (const auto& item : s.dict()->items) {
         out.push_back(item.second);
       }
       return without_arguments("values", a, Value::list(std::move(out)));
     }},
    {"get",
     [](const Value& s, const Arguments& a) -> Value {
       const ArgumentReader reader("get", a, {"key", "default"});
       const Value& key = reader.required("key");
       const Value* found = key.string() == nullptr ? nullptr : s.dict()->find(*key.string());
       const Value* fallback = reader.find("default");
       return found != nullptr ? *found : fallback != nullptr ? *fallback : Value(nullptr);
     }},
}};

constexpr std::array<Row, 2> kListMethods = {{
    {"index",
     [](const Value& s, const Arguments& a) -> Value {
       const Value& item = ArgumentReader("index", a, {"value"}).required("value");
       const auto& items = s.list()->items;
       const auto found = std::find(items.begin(), items.end(), item);
       check(found != items.end(), "index: the value is not in the list");
       return static_cast<int64_t>(found - items.begin());
     }},
    {"count",
     [](const Value& s, const Arguments& a) -> Value {
       const Value& item = ArgumentReader("count", a, {"value"}).required("value");
       return static_cast<int64_t>(std::count(s.list()->items.begin(), s.list()->items.end(), item));
     }},
}};

template <size_t N>
Value method_of(const Value& value, const std::array<Row, N>& rows, std::string_view name) {
  for (const Row& row : rows) {
    if (row.name == name) {
      return Value::function(
          [value, call = row.call](Interpreter& interpreter, const Arguments& arguments) {
            interpreter.charge(value.string() != nullptr ? 1 + value.string()->size() / 16 : 4);
            return call(value, arguments);
          },
          value.depth() + 1);
    }
  }
  return Undefined{};
}

}  // namespace

Value attribute_of(const Value& value, const std::string& name) {
  if (const auto* missing = value.get<Undefined>()) {
    throw Error(fmt::format("{} is undefined: it has no attribute {}", quote(missing->name), quote(name)));
  }
  Value found = Undefined{};
  if (value.string() != nullptr) {
    found = method_of(value, kStringMethods, name);
  } else if (value.list() != nullptr) {
    found = method_of(value, kListMethods, name);
  } else if (const Dict* dict = value.dict()) {
    found = method_of(value, kDictMethods, name);
    if (const Value* item = dict->find(name); found.is_undefined() && item != nullptr) {
      return *item;
    }
  } else if (const auto* space = value.get<Namespace>()) {
    if (const Value* item = space->attributes->find(name)) {
      return *item;
    }
  }
  return found.is_undefined() ? Value(Undefined{name}) : found;
}

}  // namespace mamba::text::jinja
