// Values as text: as {{ }} writes them, as they stand inside a list, and as JSON.
#include <algorithm>
#include <cmath>

#include "mamba/base/error.h"
#include "mamba/text/jinja/value.h"

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

}  // namespace

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

}  // namespace mamba::text::jinja
