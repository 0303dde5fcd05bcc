// The values of a template: Python's, as far as templates see them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace mamba::text::jinja {

class Value;
class Interpreter;

// How deep lists and dictionaries may lie in each other: their destructors recurse.
inline constexpr int kMaxDepth = 300;

struct Undefined {
  std::string name;  // for messages
};
struct List {
  std::vector<Value> items;
  bool is_tuple = false;
  int depth = 1;
};
// Keys are strings, in the order in which they came.
struct Dict {
  std::vector<std::pair<std::string, Value>> items;
  int depth = 1;

  const Value* find(std::string_view key) const;
  void set(const std::string& key, Value value);  // replaces, or appends
};
// The one thing that a template can change.
struct Namespace {
  std::shared_ptr<Dict> attributes;
};
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};
struct Function {
  std::function<Value(Interpreter&, const Arguments&)> call;
  int depth = 1;  // of what is bound to it
};

template <typename T, typename... Types>
inline constexpr bool kIsOneOf = (std::is_same_v<T, Types> || ...);
template <typename T>
inline constexpr bool kIsAlternative =
    kIsOneOf<T, Undefined, std::nullptr_t, bool, int64_t, double, std::string, std::shared_ptr<const List>,
             std::shared_ptr<const Dict>, Namespace, std::shared_ptr<const Function>>;

// A copy of a list or a dictionary is the same list: they do not change.
class Value {
 public:
  using Variant =
      std::variant<Undefined, std::nullptr_t, bool, int64_t, double, std::string, std::shared_ptr<const List>,
                   std::shared_ptr<const Dict>, Namespace, std::shared_ptr<const Function>>;

  Value() : value_(Undefined{}) {}
  template <typename T>
  requires kIsAlternative<std::remove_cvref_t<T>> Value(
      T&& value)  // NOLINT(google-explicit-constructor): literals are values
      : value_(std::in_place_type<std::remove_cvref_t<T>>, std::forward<T>(value)) {}
  Value(const char* text) : value_(std::string(text)) {}       // NOLINT(google-explicit-constructor)
  Value(std::string_view text) : value_(std::string(text)) {}  // NOLINT(google-explicit-constructor)
  static Value from_json(const nlohmann::ordered_json& json);
  // Throw Error when they would lie too deep, or hold a namespace.
  static Value list(std::vector<Value> items, bool is_tuple = false);
  static Value dict(std::vector<std::pair<std::string, Value>> items);
  static Value function(std::function<Value(Interpreter&, const Arguments&)> call, int depth = 1);

  template <typename T>
  const T* get() const {
    return std::get_if<T>(&value_);
  }
  const std::string* string() const { return get<std::string>(); }
  const List* list() const { return pointer<List>(); }
  const Dict* dict() const { return pointer<Dict>(); }
  const Function* function() const { return pointer<Function>(); }
  bool is_undefined() const { return get<Undefined>() != nullptr; }
  bool is_none() const { return get<std::nullptr_t>() != nullptr; }
  bool is_number() const { return get<bool>() || get<int64_t>() || get<double>(); }

  bool truth() const;
  int depth() const;
  // "str", "list", ... as Python calls it.
  const char* type_name() const;
  bool operator==(const Value& other) const;
  // As a number; requires is_number().
  double number() const;

  std::string str() const;   // what {{ }} writes
  std::string repr() const;  // how it stands inside a list
  // json.dumps with its usual separators; `indent` < 0: on one line. Throws Error for what JSON does not have.
  std::string json(int indent, bool sort_keys) const;

 private:
  template <typename T>
  const T* pointer() const {
    const auto* held = get<std::shared_ptr<const T>>();
    return held == nullptr ? nullptr : held->get();
  }

  Variant value_;
};

// Code points of well-formed UTF-8.
int64_t character_count(std::string_view text);

// The elements that a loop sees: of a list, a dictionary's keys, a string's characters; none of an undefined value.
// Throws Error for anything else.
std::vector<Value> elements_of(const Value& value);

}  // namespace mamba::text::jinja
