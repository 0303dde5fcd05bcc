// Whatever a tokenizer.json says: an Error, or a tokenizer that encodes and decodes within bounds.
#include <cstdint>
#include <string_view>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/text/stream_decoder.h"
#include "mamba/text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mamba::text;
  constexpr std::string_view kText = "The  cat's 12 \u00e9 e\u0301\n\t<s> \u2581\u5b57\U0001f600 foo\xff\xe2\x82";
  try {
    const Tokenizer tokenizer =
        Tokenizer::from_json_text({reinterpret_cast<const char*>(data), size}, "tokenizer.json");
    std::vector<int32_t> ids = {-1, 0, 1, 2, 3, 5, 8, 13, 255, 256, 999, INT32_MAX};
    try {
      ids = tokenizer.encode(kText);
      ids.push_back(tokenizer.max_id());
    } catch (const mamba::Error&) {
    }
    const std::string text = tokenizer.decode(ids);
    StreamDecoder stream(tokenizer, IllFormed::kKeep);
    std::string streamed;
    for (int32_t id : ids) {
      streamed += stream.push(id);
    }
    streamed += stream.finish();
    if (streamed != text) {
      __builtin_trap();
    }
  } catch (const mamba::Error&) {
  }
  return 0;
}
