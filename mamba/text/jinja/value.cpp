#include "mamba/text/jinja/value.h"

#include <algorithm>

#include "mamba/base/error.h"
#include "mamba/text/unicode.h"

namespace mamba::text::jinja {
namespace {

int depth_with(const Value& value) {
  check(value.get<Namespace>() == nullptr, "a namespace cannot be put into another value");
  const int depth = value.depth() + 1;
  check(depth <= kMaxDepth, "values lie more than {} deep in each other", kMaxDepth);
  return depth;
}

}  // namespace

const Value* Dict::find(std::string_view key) const {
  const auto found = std::find_if(items.begin(), items.end(), [&](const auto& item) { return item.first == key; });
  return found == items.end() ? nullptr : &found->second;
}

void Dict::set(const std::string& key, Value value) {
  depth = std::max(depth, depth_with(value));
  if (const Value* found = find(key)) {
    *const_cast<Value*>(found) = std::move(value);
  } else {
    items.emplace_back(key, std::move(value));
  }
}

Value Value::from_json(const nlohmann::ordered_json& json) {
  using Type = nlohmann::ordered_json::value_t;
  switch (json.type()) {
    case Type::null:
      return nullptr;
    case Type::boolean:
      return json.get<bool>();
    case Type::number_integer:
      return json.get<int64_t>();
    case Type::number_unsigned: {
      const auto value = json.get<uint64_t>();
      return value > INT64_MAX ? Value(static_cast<double>(value)) : Value(static_cast<int64_t>(value));
    }
    case Type::number_float:
      return json.get<double>();
    case Type::string:
      return json.get<std::string>();
    case Type::array: {
      std::vector<Value> items;
      for (const auto& item : json) {
        items.push_back(from_json(item));
      }
      return list(std::move(items));
    }
    case Type::object: {
      std::vector<std::pair<std::string, Value>> items;
      for (const auto& [key, item] : json.items()) {
        items.emplace_back(key, from_json(item));
      }
      return dict(std::move(items));
    }
    default:
      throw Error("a value cannot be given to a template");
  }
}

Value Value::list(std::vector<Value> items, bool is_tuple) {
  int depth = 1;
  for (const Value& item : items) {
    depth = std::max(depth, depth_with(item));
  }
  return std::make_shared<const List>(List{std::move(items), is_tuple, depth});
}

Value Value::dict(std::vector<std::pair<std::string, Value>> items) {
  int depth = 1;
  for (const auto& item : items) {
    depth = std::max(depth, depth_with(item.second));
  }
  return std::make_shared<const Dict>(Dict{std::move(items), depth});
}

Value Value::function(std::function<Value(Interpreter&, const Arguments&)> call, int depth) {
  return std::make_shared<const Function>(Function{std::move(call), depth});
}

bool Value::truth() const {
  if (const auto* flag = get<bool>()) {
    return *flag;
  }
  if (is_number()) {
    return number() != 0;
  }
  if (const std::string* text = string()) {
    return !text->empty();
  }
  if (const List* items = list()) {
    return !items->items.empty();
  }
  if (const Dict* items = dict()) {
    return !items->items.empty();
  }
  return !is_undefined() && !is_none();
}

int Value::depth() const {
  if (const List* items = list()) {
    return items->depth;
  }
  if (const Dict* items = dict()) {
    return items->depth;
  }
  const Function* held = function();
  return held != nullptr ? held->depth : 0;
}

const char* Value::type_name() const {
  static constexpr const char* kNames[] = {"undefined", "NoneType", "bool", "int",       "float",
                                           "str",       "list",     "dict", "namespace", "function"};
  return list() != nullptr && list()->is_tuple ? "tuple" : kNames[value_.index()];
}

double Value::number() const {
  if (const auto* whole = get<int64_t>()) {
    return static_cast<double>(*whole);
  }
  const auto* flag = get<bool>();
  return flag != nullptr ? (*flag ? 1 : 0) : *get<double>();
}

bool Value::operator==(const Value& other) const {
  if (is_number() && other.is_number()) {
    const auto* a = get<int64_t>();
    const auto* b = other.get<int64_t>();
    return a != nullptr && b != nullptr ? *a == *b : number() == other.number();
  }
  if (value_.index() != other.value_.index()) {
    return false;
  }
  if (const std::string* text = string()) {
    return *text == *other.string();
  }
  if (const List* items = list()) {
    return items == other.list() || (items->is_tuple == other.list()->is_tuple && items->items == other.list()->items);
  }
  if (const Dict* items = dict()) {
    const Dict* others = other.dict();
    return items == others || (items->items.size() == others->items.size() &&
                               std::all_of(items->items.begin(), items->items.end(), [&](const auto& item) {
                                 const Value* found = others->find(item.first);
                                 return found != nullptr && *found == item.second;
                               }));
  }
  if (const Namespace* space = get<Namespace>()) {
    return space->attributes == other.get<Namespace>()->attributes;
  }
  return is_undefined() || is_none() || function() == other.function();
}

int64_t character_count(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

std::vector<Value> elements_of(const Value& value) {
  std::vector<Value> out;
  if (const List* list = value.list()) {
    return list->items;
  }
  if (const Dict* dict = value.dict()) {
    for (const auto& item : dict->items) {
      out.emplace_back(item.first);
    }
    return out;
  }
  if (const std::string* text = value.string()) {
    for (size_t at = 0; at < text->size();) {
      const size_t size = code_point_at(*text, at).size;
      out.emplace_back(text->substr(at, size));
      at += size;
    }
    return out;
  }
  check(value.is_undefined(), "a value of type {} has no elements", value.type_name());
  return out;
}

}  // namespace mamba::text::jinja
