// What stands behind "is", and the functions that a template finds.
#include <algorithm>
#include <array>
#include <ctime>

#include "mamba/base/error.h"
#include "mamba/text/jinja/interpreter.h"
#include "mamba/text/jinja/strings.h"

namespace mamba::text::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // as Jinja's sandbox has it

bool is_integer(const Value& value) {
  return value.get<int64_t>() != nullptr;
}

int64_t integer_of(const Value& value) {
  check(is_integer(value), "an integer is needed but got {}", value.type_name());
  return *value.get<int64_t>();
}

bool is_iterable(const Value& value) {
  return value.list() != nullptr || value.dict() != nullptr || value.string() != nullptr || value.is_undefined();
}

struct Row {
  std::string_view name;
  size_t arguments;
  bool (*holds)(const Value& value, const Value& argument);
};

constexpr std::array<Row, 36> kTests = {{
    {"defined", 0, [](const Value& v, const Value&) { return !v.is_undefined(); }},
    {"undefined", 0, [](const Value& v, const Value&) { return v.is_undefined(); }},
    {"none", 0, [](const Value& v, const Value&) { return v.is_none(); }},
    {"string", 0, [](const Value& v, const Value&) { return v.string() != nullptr; }},
    {"number", 0, [](const Value& v, const Value&) { return v.is_number(); }},
    {"integer", 0, [](const Value& v, const Value&) { return is_integer(v); }},
    {"float", 0, [](const Value& v, const Value&) { return v.get<double>() != nullptr; }},
    {"boolean", 0, [](const Value& v, const Value&) { return v.get<bool>() != nullptr; }},
    {"true", 0, [](const Value& v, const Value&) { return v.get<bool>() != nullptr && v.truth(); }},
    {"false", 0, [](const Value& v, const Value&) { return v.get<bool>() != nullptr && !v.truth(); }},
    {"mapping", 0, [](const Value& v, const Value&) { return v.dict() != nullptr; }},
    {"iterable", 0, [](const Value& v, const Value&) { return is_iterable(v); }},
    {"sequence", 0, [](const Value& v, const Value&) { return is_iterable(v); }},
    {"callable", 0, [](const Value& v, const Value&) { return v.function() != nullptr; }},
    {"odd", 0, [](const Value& v, const Value&) { return integer_of(v) % 2 != 0; }},
    {"even", 0, [](const Value& v, const Value&) { return integer_of(v) % 2 == 0; }},
    {"lower", 0,
     [](const Value& v, const Value&) {
       return v.str() == in_case(v.str(), Case::kLower) && v.str() != in_case(v.str(), Case::kUpper);
     }},
    {"upper", 0,
     [](const Value& v, const Value&) {
       return v.str() == in_case(v.str(), Case::kUpper) && v.str() != in_case(v.str(), Case::kLower);
     }},
    {"divisibleby", 1,
     [](const Value& v, const Value& a) {
       check(integer_of(a) != 0, "division by zero");
       return integer_of(a) == -1 || integer_of(v) % integer_of(a) == 0;
     }},
    {"eq", 1, [](const Value& v, const Value& a) { return v == a; }},
    {"equalto", 1, [](const Value& v, const Value& a) { return v == a; }},
    {"==", 1, [](const Value& v, const Value& a) { return v == a; }},
    {"sameas", 1,
     [](const Value& v, const Value& a) { return v == a && std::string_view(v.type_name()) == a.type_name(); }},
    {"ne", 1, [](const Value& v, const Value& a) { return !(v == a); }},
    {"!=", 1, [](const Value& v, const Value& a) { return !(v == a); }},
    {"lt", 1, [](const Value& v, const Value& a) { return ordering(v, a) < 0; }},
    {"lessthan", 1, [](const Value& v, const Value& a) { return ordering(v, a) < 0; }},
    {"<", 1, [](const Value& v, const Value& a) { return ordering(v, a) < 0; }},
    {"le", 1, [](const Value& v, const Value& a) { return ordering(v, a) <= 0; }},
    {"<=", 1, [](const Value& v, const Value& a) { return ordering(v, a) <= 0; }},
    {"gt", 1, [](const Value& v, const Value& a) { return ordering(v, a) > 0; }},
    {"greaterthan", 1, [](const Value& v, const Value& a) { return ordering(v, a) > 0; }},
    {">", 1, [](const Value& v, const Value& a) { return ordering(v, a) > 0; }},
    {"ge", 1, [](const Value& v, const Value& a) { return ordering(v, a) >= 0; }},
    {">=", 1, [](const Value& v, const Value& a) { return ordering(v, a) >= 0; }},
    {"in", 1, [](const Value& v, const Value& a) { return contains(a, v); }},
}};

Value range(Interpreter& interpreter, const Arguments& arguments) {
  const auto& given = arguments.positional;
  check(!given.empty() && given.size() <= 3 && arguments.named.empty(), "range takes one to three integers");
  const int64_t start = given.size() > 1 ? integer_of(given[0]) : 0;
  const int64_t stop = integer_of(given[given.size() > 1 ? 1 : 0]);
  const int64_t step = given.size() > 2 ? integer_of(given[2]) : 1;
  check(step != 0, "range's step cannot be 0");
  std::vector<Value> out;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    out.emplace_back(i);
    check(static_cast<int64_t>(out.size()) <= kMaxRange, "range gives more than {} numbers", kMaxRange);
    if (__builtin_add_overflow(i, step, &i)) {
      break;
    }
  }
  interpreter.charge(out.size());
  return Value::list(std::move(out));
}

Dict dict_of(const Arguments& arguments, const char* name) {
  Dict out;
  for (const Value& value : arguments.positional) {
    const auto* space = value.get<Namespace>();
    const Dict* dict = space != nullptr ? space->attributes.get() : value.dict();
    check(dict != nullptr, "{} takes dictionaries and named values", name);
    for (const auto& [key, item] : dict->items) {
      out.set(key, item);
    }
  }
  for (const auto& [key, item] : arguments.named) {
    out.set(key, item);
  }
  return out;
}

}  // namespace

bool apply_test(const std::string& name, const Arguments& arguments) {
  const auto row = std::find_if(kTests.begin(), kTests.end(), [&](const Row& r) { return r.name == name; });
  check(row != kTests.end(), "there is no test {}", quote(name));
  check(arguments.positional.size() == row->arguments + 1 && arguments.named.empty(), "the test {} takes {} argument{}",
        quote(name), row->arguments, row->arguments == 1 ? "" : "s");
  return row->holds(arguments.positional[0], arguments.positional.back());
}

Dict standard_globals() {
  Dict out;
  out.set("range", Value::function(range));
  out.set("namespace", Value::function([](Interpreter&, const Arguments& arguments) -> Value {
            return Namespace{std::make_shared<Dict>(dict_of(arguments, "namespace"))};
          }));
  out.set("dict", Value::function([](Interpreter&, const Arguments& arguments) {
            return Value::dict(dict_of(arguments, "dict").items);
          }));
  out.set("raise_exception", Value::function([](Interpreter&, const Arguments& arguments) -> Value {
            const ArgumentReader reader("raise_exception", arguments, {"message"});
            throw Error(fmt::format("the template refuses these messages: {}", reader.required("message").str()));
          }));
  out.set("strftime_now", Value::function([](Interpreter&, const Arguments& arguments) -> Value {
            const std::string format = ArgumentReader("strftime_now", arguments, {"format"}).string("format");
            const std::time_t now = std::time(nullptr);
            std::tm local{};
            ::localtime_r(&now, &local);
            std::array<char, 256> text{};
            const size_t size = std::strftime(text.data(), text.size(), format.c_str(), &local);
            return std::string(text.data(), size);
          }));
  return out;
}

ArgumentReader::ArgumentReader(const char* function, const Arguments& arguments, std::vector<const char*> names)
    : function_(function) {
  if (arguments.positional.size() > names.size()) {
    fail(fmt::format("takes at most {} arguments but got {}", names.size(), arguments.positional.size()));
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    values_.emplace_back(names[i], &arguments.positional[i]);
  }
  for (const auto& named : arguments.named) {
    const auto known = std::find_if(names.begin(), names.end(), [&](const char* name) { return named.first == name; });
    if (known == names.end() || find(*known) != nullptr) {
      fail(fmt::format("has no place for an argument {}", quote(named.first)));
    }
    values_.emplace_back(*known, &named.second);
  }
}

const Value* ArgumentReader::find(const char* name) const {
  for (const auto& [known, value] : values_) {
    if (std::string_view(known) == name) {
      return value;
    }
  }
  return nullptr;
}

const Value& ArgumentReader::required(const char* name) const {
  const Value* value = find(name);
  if (value == nullptr) {
    fail(fmt::format("needs the argument {}", quote(name)));
  }
  return *value;
}

std::string ArgumentReader::string(const char* name) const {
  const Value& value = required(name);
  if (value.string() == nullptr) {
    fail(fmt::format("needs a string as {} but got {}", quote(name), value.type_name()));
  }
  return *value.string();
}

int64_t ArgumentReader::integer(const char* name, int64_t fallback) const {
  const Value* value = find(name);
  if (value == nullptr) {
    return fallback;
  }
  if (value->get<int64_t>() == nullptr) {
    fail(fmt::format("needs an integer as {} but got {}", quote(name), value->type_name()));
  }
  return *value->get<int64_t>();
}

bool ArgumentReader::flag(const char* name, bool fallback) const {
  const Value* value = find(name);
  return value == nullptr ? fallback : value->truth();
}

void ArgumentReader::fail(const std::string& message) const {
  throw Error(fmt::format("{} {}", function_, message));
}

}  // namespace mamba::text::jinja
