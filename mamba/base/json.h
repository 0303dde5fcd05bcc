// JSON from files that nobody has checked yet.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mamba/base/error.h"

namespace mamba {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;  // fields stay in the order in which they came

// Parses `text`; throws ParseError{file, offset} on bad syntax, on nesting deeper than 256 (the parser's recursion
// would end on the stack) and on invalid UTF-8. `base_offset` is where `text` starts in the file.
Json parse_json(std::string_view text, const std::string& file, int64_t base_offset = 0);

// The whole file, parsed. Throws Error when it cannot be read.
Json read_json(const std::filesystem::path& path);

// Throws Json::exception: for text that is known to be sound.
OrderedJson parse_ordered_json(std::string_view text);

// On one line, or in lines with `indent` more spaces for each level. Throws Json::exception for a string that is not
// UTF-8. A function rather than dump(), for which every source that calls it compiles the whole writer again; and so
// for parse_json().
std::string json_text(const Json& json, int indent = -1);
std::string json_text(const OrderedJson& json, int indent = -1);

// On one line, with U+FFFD in place of what is not UTF-8.
std::string printable_json(const OrderedJson& json);

// For messages: ASCII, and no more than 60 characters of it.
std::string shown_json(const Json& value);

// Typed access to one JSON object, with errors that name the file and the field:
// `config.json: field "d_model" must be an integer from 1 to 65536 but is "wide"`.
class JsonObject {
 public:
  // `value` must outlive this object; throws ParseError unless it is an object. `prefix` goes before field names.
  JsonObject(const Json& value, std::string file, std::string prefix = "");

  bool has(const std::string& key) const;  // present and not null
  int64_t integer(const std::string& key, int64_t low, int64_t high) const;
  int64_t integer_or(const std::string& key, int64_t fallback, int64_t low, int64_t high) const;
  double number_or(const std::string& key, double fallback, double low, double high) const;
  bool boolean_or(const std::string& key, bool fallback) const;
  std::string string(const std::string& key) const;
  std::string string_or(const std::string& key, const std::string& fallback) const;
  const Json* find(const std::string& key) const;  // null when absent or null
  JsonObject object(const std::string& key) const;

  [[noreturn]] void fail(const std::string& message) const;
  std::string name(const std::string& key) const;  // with the prefix and in quotes, for messages
  const std::string& file() const { return file_; }
  const Json& json() const { return *value_; }

 private:
  const Json& required(const std::string& key) const;

  const Json* value_;
  std::string file_;
  std::string prefix_;
};

}  // namespace mamba
