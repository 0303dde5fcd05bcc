#include "mamba/train/data/json_lines.h"

namespace mamba::train {
namespace {

constexpr const char* kKinds = "\"text\", \"prompt\" and \"completion\", or \"messages\"";

void check_messages(const JsonObject& record, const Json& messages) {
  if (!messages.is_array() || messages.empty()) {
    record.fail("field \"messages\" must be a list of objects with \"role\" and \"content\"");
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const JsonObject message(messages[i], record.file(), fmt::format("messages[{}]", i));
    message.string("role");
    if (message.has("content")) {
      message.string("content");
    }
  }
}

}  // namespace

std::optional<Record> parse_record(std::string_view line, const std::string& place) {
  if (line.find_first_not_of(" \t\r") == std::string_view::npos) {
    return std::nullopt;
  }
  const Json json = parse_json(line, place);
  const JsonObject object(json, place);
  const bool text = object.has("text");
  const bool prompt = object.has("prompt") || object.has("completion");
  const bool messages = object.has("messages");
  if (!text && !prompt && !messages) {
    object.fail(fmt::format("the line has no field {}", kKinds));
  }
  if (text + prompt + messages > 1) {
    object.fail(fmt::format("the line must have {}, and not two of them", kKinds));
  }
  Record record;
  record.is_example = !text;
  if (text) {
    record.text = object.string("text");
  } else if (prompt) {
    record.prompt = object.string("prompt");
    record.completion = object.string("completion");
  } else {
    check_messages(object, *object.find("messages"));
    // Once more, in the file's order, in which templates write tools and calls; the line is known to be sound.
    OrderedJson ordered = parse_ordered_json(line);
    record.messages = std::move(ordered["messages"]);
    for (auto& message : record.messages) {
      if (!message.contains("content") || message["content"].is_null()) {
        message["content"] = "";
      }
    }
    if (object.has("tools")) {
      record.tools = std::move(ordered["tools"]);
    }
  }
  return record;
}

}  // namespace mamba::train
