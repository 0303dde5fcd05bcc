#include "mamba/text/jinja/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "mamba/base/error.h"
#include "mamba/text/unicode.h"

namespace mamba::text::jinja {
namespace {

// The longest text that a list or a dictionary may be written as: they may hold the same part many times.
constexpr size_t kMaxText = size_t{1} << 24;

void check_size(const std::string& out) {
  check(out.size() <= kMaxText, "a value is longer than {} bytes as text", kMaxText);
}

std::string float_text(double value, bool json) {
  if (std::isnan(value)) {
    return json ? "NaN" : "nan";
  }
  if (std::isinf(value)) {
    return fmt::format("{}{}", value < 0 ? "-" : "", json ? "Infinity" : "inf");
  }
  // Python: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
  const double size = std::abs(value);
  if (size != 0 && (size < 1e-4 || size >= 1e16)) {
    std::string text = fmt::format("{:e}", value);
    std::string shortest = fmt::format("{}", value);
    return shortest.find('e') != std::string::npos ? shortest : text;
  }
  std::string text = fmt::format("{}", value);
  if (text.find('e') != std::string::npos) {
    text = fmt::format("{:.0f}", value);
  }
  return text.find('.') == std::string::npos ? text + ".0" : text;
}

void append_repr(std::string& out, const std::string& text) {
  const char mark = text.find('\'') != std::string::npos && text.find('"') == std::string::npos ? '"' : '\'';
  out += mark;
  for (const char c : text) {
    switch (c) {
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\\':
        out += "\\\\";
        break;
      default:
        if (c == mark) {
          out += '\\';
          out += c;
        } else if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) {
          out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
        } else {
          out += c;
        }
    }
  }
  out += mark;
}

void append_json_string(std::string& out, const std::string& text) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (static_cast<unsigned char>(c) < ' ') {
          out += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

void append_json(std::string& out, const Value& value, int indent, bool sort_keys, int level) {
  const auto line = [&](int depth) {
    if (indent >= 0) {
      out += '\n';
      out.append(static_cast<size_t>(indent) * static_cast<size_t>(depth), ' ');
    }
  };
  const char* between = indent >= 0 ? "," : ", ";
  check_size(out);
  if (const auto* flag = value.get<bool>()) {
    out += *flag ? "true" : "false";
  } else if (value.is_none()) {
    out += "null";
  } else if (const auto* real = value.get<double>()) {
    out += float_text(*real, true);
  } else if (value.get<int64_t>() != nullptr) {
    out += value.str();
  } else if (const std::string* text = value.string()) {
    append_json_string(out, *text);
  } else if (const List* list = value.list()) {
    out += '[';
    for (size_t i = 0; i < list->items.size(); ++i) {
      out += i == 0 ? "" : between;
      line(level + 1);
      append_json(out, list->items[i], indent, sort_keys, level + 1);
    }
    if (!list->items.empty()) {
      line(level);
    }
    out += ']';
  } else if (const Dict* dict = value.dict()) {
    std::vector<const std::pair<std::string, Value>*> items;
    for (const auto& item : dict->items) {
      items.push_back(&item);
    }
    if (sort_keys) {
      std::sort(items.begin(), items.end(), [](const auto* a, const auto* b) { return a->first < b->first; });
    }
    out += '{';
    for (size_t i = 0; i < items.size(); ++i) {
      out += i == 0 ? "" : between;
      line(level + 1);
      append_json_string(out, items[i]->first);
      out += ": ";
      append_json(out, items[i]->second, indent, sort_keys, level + 1);
    }
    if (!items.empty()) {
      line(level);
    }
    out += '}';
  } else {
    throw Error(fmt::format("a value of type {} cannot be written as JSON", value.type_name()));
  }
}

void append_value(std::string& out, const Value& value) {
  check_size(out);
  if (const std::string* text = value.string()) {
    append_repr(out, *text);
  } else if (const List* list = value.list()) {
    out += list->is_tuple ? '(' : '[';
    for (size_t i = 0; i < list->items.size(); ++i) {
      out += i == 0 ? "" : ", ";
      append_value(out, list->items[i]);
    }
    out += list->is_tuple ? (list->items.size() == 1 ? ",)" : ")") : "]";
  } else if (const Dict* dict = value.dict()) {
    out += '{';
    for (size_t i = 0; i < dict->items.size(); ++i) {
      out += i == 0 ? "" : ", ";
      append_repr(out, dict->items[i].first);
      out += ": ";
      append_value(out, dict->items[i].second);
    }
    out += '}';
  } else if (value.is_undefined()) {
    out += "Undefined";
  } else {
    out += value.str();
  }
}

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

std::string Value::str() const {
  if (const std::string* text = string()) {
    return *text;
  }
  if (is_undefined()) {
    return "";
  }
  if (is_none()) {
    return "None";
  }
  if (const auto* flag = get<bool>()) {
    return *flag ? "True" : "False";
  }
  if (const auto* whole = get<int64_t>()) {
    return fmt::format("{}", *whole);
  }
  if (const auto* real = get<double>()) {
    return float_text(*real, false);
  }
  if (list() != nullptr || dict() != nullptr) {
    return repr();
  }
  return fmt::format("<{}>", type_name());
}

std::string Value::repr() const {
  std::string out;
  append_value(out, *this);
  return out;
}

std::string Value::json(int indent, bool sort_keys) const {
  std::string out;
  append_json(out, *this, indent, sort_keys, 0);
  return out;
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
