// Whatever a template says: an Error, or text, in bounded time and memory; answers lie in the text, one after the
// other.
#include <cstdint>
#include <string_view>

#include "mamba/base/error.h"
#include "mamba/base/json.h"
#include "mamba/text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using mamba::text::ChatTemplate;
  static const auto messages = mamba::parse_ordered_json(R"([
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": " 5 > 4?\n"},
    {"role": "assistant", "content": "Ja, gr\u00f6\u00dfer.", "tool_calls": [{"name": "f", "arguments": {"x": [1, 2.5]}}]},
    {"role": "user", "content": ""}, {"role": "assistant", "content": "<think>x</think>y"}])");
  try {
    const ChatTemplate chat({reinterpret_cast<const char*>(data), size}, "fuzz");
    const mamba::text::ChatOptions options{.bos_token = "<s>", .eos_token = "</s>", .add_generation_prompt = true};
    try {
      chat.render(messages, options);
    } catch (const mamba::Error&) {
    }
    const ChatTemplate::Answers answers = chat.render_with_answers(messages, options);
    size_t done = 0;
    for (const auto& [begin, end] : answers.spans) {
      if (begin < done || end < begin || end > answers.text.size()) {
        __builtin_trap();
      }
      done = end;
    }
  } catch (const mamba::Error&) {
  }
  return 0;
}
