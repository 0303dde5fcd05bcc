// A tokenizer's chat template: messages into the text that a model was trained on.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mamba::text {

// What a template is given besides the messages.
struct ChatOptions {
  std::string bos_token;
  std::string eos_token;
  bool add_generation_prompt = false;  // end where the assistant's answer begins
  nlohmann::ordered_json tools;        // null: none
};

// Immutable and thread-safe.
//
// Templates are Jinja, run as transformers runs them (trim_blocks, lstrip_blocks, break and continue, tojson without
// escapes, raise_exception, strftime_now, generation blocks). Not supported, and refused by name: what needs other
// templates (include, import, extends, block), call and with blocks, recursive loops, and changing a list or a
// dictionary, which transformers forbids too. A template may come from a stranger: its time, its memory and its nesting
// are bounded.
class ChatTemplate {
 public:
  // `source` is Jinja. Throws ParseError "<name>:<line>: message".
  ChatTemplate(std::string_view source, std::string name);
  // Without a template of their own, messages are written as
  //   <|role|>\ncontent\n        one after the other, an assistant's with eos_token before the newline
  static ChatTemplate standard();
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // Throws Error where the template does: for a missing variable, or because it refuses the messages.
  std::string render(const nlohmann::ordered_json& messages, const ChatOptions& options = {}) const;

  // The text of all messages, and where in it the assistant's answers stand, each with the token that ends it: of a
  // template with {% generation %} blocks what these write; else what an assistant's message adds to the text before
  // it (with its generation prompt), less blanks behind an end token. Throws Error when the text up to an answer is not
  // how the text of all messages begins, for then what the message adds is not defined.
  struct Answers {
    std::string text;
    std::vector<std::pair<size_t, size_t>> spans;  // [begin, end), in bytes, ascending
  };
  Answers render_with_answers(const nlohmann::ordered_json& messages, const ChatOptions& options = {}) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

}  // namespace mamba::text
