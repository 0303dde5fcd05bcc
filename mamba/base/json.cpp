#include "mamba/base/json.h"

#include <cmath>

#include "mamba/base/file.h"

namespace mamba {
namespace {

constexpr int kMaxDepth = 256;

// The deepest nesting of `text`, found before parsing; brackets inside strings do not count.
void check_depth(std::string_view text, const std::string& file, int64_t base_offset) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxDepth) {
        throw ParseError(file, base_offset + static_cast<int64_t>(i),
                         fmt::format("JSON is nested deeper than {} levels", kMaxDepth));
      }
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
}

}  // namespace

Json parse_json(std::string_view text, const std::string& file, int64_t base_offset) {
  check_depth(text, file, base_offset);
  try {
    return Json::parse(text.begin(), text.end());
  } catch (const Json::parse_error& e) {
    const int64_t at = e.byte > 0 ? static_cast<int64_t>(e.byte) - 1 : 0;
    throw ParseError(file, base_offset + at, "not valid JSON");
  } catch (const Json::exception&) {  // a number outside double's range, among others
    throw ParseError(file, base_offset, "not valid JSON: a value is out of range");
  }
}

Json read_json(const std::filesystem::path& path) {
  return parse_json(read_file(path), path.string());
}

OrderedJson parse_ordered_json(std::string_view text) {
  return OrderedJson::parse(text.begin(), text.end());
}

std::string json_text(const Json& json, int indent) {
  return json.dump(indent);
}

std::string json_text(const OrderedJson& json, int indent) {
  return json.dump(indent);
}

std::string printable_json(const OrderedJson& json) {
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

std::string shown_json(const Json& value) {
  const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() <= 60 ? text : text.substr(0, 57) + "...";
}

JsonObject::JsonObject(const Json& value, std::string file, std::string prefix)
    : value_(&value), file_(std::move(file)), prefix_(std::move(prefix)) {
  if (!value.is_object()) {
    fail(prefix_.empty() ? "must hold a JSON object" : fmt::format("field {} must be an object", quote(prefix_)));
  }
}

void JsonObject::fail(const std::string& message) const {
  throw ParseError(file_, ParseError::kNoOffset, message);
}

std::string JsonObject::name(const std::string& key) const {
  return quote(prefix_.empty() ? key : prefix_ + "." + key);
}

const Json* JsonObject::find(const std::string& key) const {
  const auto it = value_->find(key);
  return it == value_->end() || it->is_null() ? nullptr : &*it;
}

bool JsonObject::has(const std::string& key) const {
  return find(key) != nullptr;
}

const Json& JsonObject::required(const std::string& key) const {
  const Json* value = find(key);
  if (value == nullptr) {
    fail(fmt::format("field {} is missing", name(key)));
  }
  return *value;
}

int64_t JsonObject::integer(const std::string& key, int64_t low, int64_t high) const {
  const Json& value = required(key);
  int64_t number = 0;
  bool valid = value.is_number_integer() && !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX);
  if (valid) {
    number = value.get<int64_t>();
  } else if (value.is_number_float() && value.get<double>() == std::floor(value.get<double>()) &&
             std::abs(value.get<double>()) < 9e15) {  // 768.0 is written by some tools
    number = static_cast<int64_t>(value.get<double>());
    valid = true;
  }
  if (!valid || number < low || number > high) {
    fail(fmt::format("field {} must be an integer from {} to {} but is {}", name(key), low, high, shown_json(value)));
  }
  return number;
}

int64_t JsonObject::integer_or(const std::string& key, int64_t fallback, int64_t low, int64_t high) const {
  return has(key) ? integer(key, low, high) : fallback;
}

double JsonObject::number_or(const std::string& key, double fallback, double low, double high) const {
  const Json* value = find(key);
  if (value == nullptr) {
    return fallback;
  }
  if (!value->is_number() || !(value->get<double>() >= low && value->get<double>() <= high)) {
    fail(fmt::format("field {} must be a number from {} to {} but is {}", name(key), low, high, shown_json(*value)));
  }
  return value->get<double>();
}

bool JsonObject::boolean_or(const std::string& key, bool fallback) const {
  const Json* value = find(key);
  if (value == nullptr) {
    return fallback;
  }
  if (!value->is_boolean()) {
    fail(fmt::format("field {} must be true or false but is {}", name(key), shown_json(*value)));
  }
  return value->get<bool>();
}

std::string JsonObject::string(const std::string& key) const {
  const Json& value = required(key);
  if (!value.is_string()) {
    fail(fmt::format("field {} must be a string but is {}", name(key), shown_json(value)));
  }
  return value.get<std::string>();
}

std::string JsonObject::string_or(const std::string& key, const std::string& fallback) const {
  return has(key) ? string(key) : fallback;
}

JsonObject JsonObject::object(const std::string& key) const {
  return {required(key), file_, prefix_.empty() ? key : prefix_ + "." + key};
}

}  // namespace mamba
