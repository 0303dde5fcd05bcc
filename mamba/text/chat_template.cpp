#include "mamba/text/chat_template.h"

#include <algorithm>

#include "mamba/base/error.h"
#include "mamba/base/json.h"
#include "mamba/text/jinja/interpreter.h"
#include "mamba/text/jinja/parser.h"
#include "mamba/text/jinja/strings.h"

namespace mamba::text {

using Json = OrderedJson;

namespace {

constexpr std::string_view kStandard =
    "{% for message in messages %}{{ '<|' + message.role + '|>\\n' + message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}";

bool has_generation(const jinja::Body& body) {
  return std::any_of(body.begin(), body.end(), [](const auto& statement) {
    return statement->kind == jinja::Statement::Kind::kGroup || has_generation(statement->body) ||
           has_generation(statement->otherwise);
  });
}

std::string trimmed(std::string_view text) {
  return jinja::stripped(text, nullptr, true, true);
}

Json first(const Json& messages, size_t count) {
  Json out = Json::array();
  for (size_t i = 0; i < count; ++i) {
    out.push_back(messages[i]);
  }
  return out;
}

}  // namespace

struct ChatTemplate::Impl {
  std::string name;
  jinja::Body body;
  bool generation = false;

  std::string render(const Json& messages, const ChatOptions& options, bool add_generation_prompt,
                     std::vector<std::pair<size_t, size_t>>* generated = nullptr) const {
    jinja::Dict globals = jinja::standard_globals();
    globals.set("messages", jinja::Value::from_json(messages));
    globals.set("tools", jinja::Value::from_json(options.tools));
    globals.set("documents", nullptr);
    globals.set("add_generation_prompt", add_generation_prompt);
    // A token that the tokenizer does not have is not defined, so that templates can ask.
    for (const auto& [key, token] :
         {std::pair("bos_token", &options.bos_token), std::pair("eos_token", &options.eos_token)}) {
      if (!token->empty()) {
        globals.set(key, *token);
      }
    }
    jinja::Interpreter interpreter(name, globals);
    std::string text = interpreter.run(body);
    if (generated != nullptr) {
      *generated = interpreter.generated();
    }
    return text;
  }
};

ChatTemplate::ChatTemplate(std::string_view source, std::string name) {
  auto impl = std::make_unique<Impl>();
  impl->name = std::move(name);
  impl->body = jinja::parse(source, impl->name);
  impl->generation = has_generation(impl->body);
  impl_ = std::move(impl);
}

ChatTemplate ChatTemplate::standard() {
  return {kStandard, "the standard chat template"};
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::string ChatTemplate::render(const Json& messages, const ChatOptions& options) const {
  return impl_->render(messages, options, options.add_generation_prompt);
}

ChatTemplate::Answers ChatTemplate::render_with_answers(const Json& messages, const ChatOptions& options) const {
  Answers out;
  if (impl_->generation) {
    out.text = impl_->render(messages, options, false, &out.spans);
    return out;
  }
  out.text = impl_->render(messages, options, false);
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].value("role", "") != "assistant") {
      continue;
    }
    const std::string through = impl_->render(first(messages, i + 1), options, false);
    std::string before = i == 0 ? "" : impl_->render(first(messages, i), options, true);
    if (!through.starts_with(before)) {
      before = i == 0 ? "" : impl_->render(first(messages, i), options, false);
    }
    if (!out.text.starts_with(through) || !through.starts_with(before)) {
      throw Error(fmt::format(
          "{}: which part of the text is the answer in message {} cannot be told, as the text up to it is not how the "
          "text of all messages begins: mark answers in the template with {{% generation %}}",
          impl_->name, i + 1));
    }
    const std::string_view answer = std::string_view(through).substr(before.size());
    size_t end = through.size();
    // Blanks end an answer only where nothing else does.
    const std::string content = trimmed(messages[i].value("content", ""));
    const std::string tail = trimmed(answer);
    if (!tail.ends_with(content) || content.empty()) {
      end = before.size() + jinja::stripped(answer, nullptr, false, true).size();
    }
    out.spans.emplace_back(before.size(), end);
  }
  return out;
}

}  // namespace mamba::text
