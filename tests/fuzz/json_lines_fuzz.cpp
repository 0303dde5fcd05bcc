// Whatever a .jsonl says: an Error, or examples with a mark for each token.
#include <algorithm>
#include <cstdint>
#include <string_view>

#include "mamba/base/error.h"
#include "mamba/text/bpe_trainer.h"
#include "mamba/train/data/document_encoder.h"
#include "mamba/train/data/json_lines.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mamba;
  static const text::Tokenizer tokenizer =
      text::Tokenizer::from_json_text(text::BpeTrainer({.vocab_size = 257}).train(), "tokenizer.json");
  static const train::DocumentEncoder encoder(tokenizer, 0);
  static const text::ChatTemplate chat = text::ChatTemplate::standard();
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    try {
      const auto record = train::parse_record(line, "a.jsonl:1");
      if (!record) {
        continue;
      }
      const train::EncodedExample example =
          record->messages.is_null() ? encoder.completion(record->prompt, record->completion)
                                     : encoder.conversation(chat, record->messages, {.eos_token = "<|endoftext|>"});
      if (example.ids.size() != example.mask.size()) {
        __builtin_trap();
      }
      encoder.encode(record->text);
    } catch (const Error&) {
    }
  }
  return 0;
}
