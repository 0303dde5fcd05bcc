// What stands behind "|".
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "mamba/base/error.h"
#include "mamba/text/jinja/filters.h"
#include "mamba/text/jinja/interpreter.h"
#include "mamba/text/jinja/strings.h"

namespace mamba::text::jinja {
namespace {

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

constexpr FilterRow kFilters[] = {
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
    {"indent", indented},
    {"round", rounded},
    {"replace", replace},
    {"abs", absolute},
    {"escape", escaped},
    {"e", escaped},
    {"safe", [](Interpreter&, const Value& v, const Arguments&) { return v; }},
};

}  // namespace

Value apply_filter(Interpreter& interpreter, const std::string& name, const Arguments& arguments) {
  const auto named = [&](const FilterRow& row) { return row.name == name; };
  const FilterRow* row = std::find_if(std::begin(kFilters), std::end(kFilters), named);
  if (row == std::end(kFilters)) {
    const std::span<const FilterRow> others = sequence_filters();
    const auto found = std::find_if(others.begin(), others.end(), named);
    check(found != others.end(), "there is no filter {}", quote(name));
    row = &*found;
  }
  const Value& value = arguments.positional.at(0);
  Arguments rest{{arguments.positional.begin() + 1, arguments.positional.end()}, arguments.named};
  interpreter.charge(value.string() != nullptr ? 1 + value.string()->size() / 16 : 1);
  return row->apply(interpreter, value, rest);
}

}  // namespace mamba::text::jinja
