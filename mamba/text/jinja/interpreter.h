// Runs a template.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mamba/text/jinja/ast.h"

namespace mamba::text::jinja {

// Work and memory that one rendering may take: far more than any chat needs, and no more than a second or so.
inline constexpr int64_t kMaxSteps = 4'000'000;
inline constexpr size_t kMaxLength = size_t{1} << 24;

class Interpreter {
 public:
  // `name` is the template's, for messages; both must outlive this object.
  Interpreter(const std::string& name, const Dict& globals) : name_(name), globals_(globals) {}

  // Throws Error "<name>:<line>: message".
  std::string run(const Body& body);

  // What {% generation %} blocks of the last run() wrote, as places in its text.
  const std::vector<std::pair<size_t, size_t>>& generated() const { return generated_; }

  Value evaluate(const Expression& expression);
  // Calls what a template can call. Throws Error when it is no function.
  Value call(const Value& callee, const Arguments& arguments);
  // Counts work of `steps`; throws Error when it becomes too much.
  void charge(size_t steps = 1);

 private:
  enum class Flow { kNext, kBreak, kContinue };
  using Scope = std::map<std::string, Value, std::less<>>;

  Flow execute(const Body& body);
  Flow execute(const Statement& statement);
  Flow loop(const Statement& statement);
  Value loop_variable(const std::vector<Value>& items, size_t index) const;
  Value macro(const Statement& statement);
  Value call_macro(const Statement& statement, const Arguments& arguments);
  std::string captured(const Body& body);
  void assign(const std::vector<std::string>& targets, const Value& value);
  void write(std::string_view text);

  Value evaluate_parts(const Expression& expression);
  Value binary(const Expression& expression);
  Value compare(const Expression& expression);
  Value slice(const Expression& expression);
  Arguments arguments_of(const Expression& expression);
  Value lookup(const std::string& name) const;

  const std::string& name_;
  const Dict& globals_;
  Scope module_;               // what the template itself sets
  std::vector<Scope> scopes_;  // of loops and macros around the place, the innermost last
  std::string* output_ = nullptr;
  const std::string* result_ = nullptr;  // what output_ is outside of captures
  std::vector<std::pair<size_t, size_t>> generated_;
  int64_t steps_ = 0;
  int depth_ = 0;
};

// An attribute: a method, or a dictionary's item.
Value attribute_of(const Value& value, const std::string& name);
Value item_of(const Value& value, const Value& key);
Value arithmetic(std::string_view op, const Value& left, const Value& right);  // + - * / // % **
bool contains(const Value& container, const Value& item);
int ordering(const Value& left, const Value& right);  // -1, 0, 1; throws Error for what has no order
Value apply_filter(Interpreter& interpreter, const std::string& name, const Arguments& arguments);
bool apply_test(const std::string& name, const Arguments& arguments);
// namespace, range, dict, raise_exception, strftime_now.
Dict standard_globals();

// How functions read their arguments.
class ArgumentReader {
 public:
  // Refuses more than `names` has, by position or under another name.
  ArgumentReader(const char* function, const Arguments& arguments, std::vector<const char*> names);

  // The argument called `name`, or null.
  const Value* find(const char* name) const;
  const Value& required(const char* name) const;
  std::string string(const char* name) const;
  int64_t integer(const char* name, int64_t fallback) const;
  bool flag(const char* name, bool fallback) const;

 private:
  [[noreturn]] void fail(const std::string& message) const;
  const char* function_;
  std::vector<std::pair<const char*, const Value*>> values_;
};

}  // namespace mamba::text::jinja
