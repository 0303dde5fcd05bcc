// Bytes cut into tokens anywhere: no piece ends inside a character, and together they are the text.
#include <cstdint>
#include <string>
#include <vector>

#include "mamba/base/json.h"
#include "mamba/text/byte_alphabet.h"
#include "mamba/text/stream_decoder.h"
#include "mamba/text/tokenizer.h"
#include "mamba/text/unicode.h"

namespace {

using namespace mamba::text;

// Ids 0 to 255 are single bytes; the others have two, three and four.
Tokenizer make_tokenizer() {
  mamba::Json vocabulary = mamba::Json::object();
  const auto add = [&](const std::string& bytes, int id) {
    std::string token;
    append_as_characters(token, bytes);
    vocabulary[token] = id;
  };
  for (int b = 0; b < 256; ++b) {
    add(std::string(1, static_cast<char>(b)), b);
  }
  add("\xf0\x9f", 256);
  add("\x98\x80 ", 257);
  add("\xc3\xa9\xe2\x82", 258);
  add("a\xff", 259);
  const mamba::Json json = {{"decoder", {{"type", "ByteLevel"}}},
                            {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", mamba::Json::array()}}}};
  return Tokenizer::from_json_text(mamba::json_text(json), "tokenizer.json");
}

void require(bool condition) {
  if (!condition) {
    __builtin_trap();
  }
}

void check(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, IllFormed ill_formed) {
  StreamDecoder stream(tokenizer, ill_formed);
  std::string all;
  std::vector<size_t> ends = {0};
  for (int32_t id : ids) {
    all += stream.push(id);
    ends.push_back(all.size());
  }
  all += stream.finish();
  require(all == (ill_formed == IllFormed::kReplace ? tokenizer.decode_utf8(ids) : tokenizer.decode(ids)));
  auto end = ends.begin();
  for (size_t at = 0; at < all.size();) {
    const Sequence sequence = sequence_at(all, at);
    require(sequence.form == Form::kCharacter || ill_formed == IllFormed::kKeep);
    while (end != ends.end() && *end <= at) {
      ++end;
    }
    require(sequence.form != Form::kCharacter || end == ends.end() || *end >= at + sequence.size);
    at += sequence.size;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Tokenizer tokenizer = make_tokenizer();
  std::vector<int32_t> ids;
  for (size_t i = 0; i < size; ++i) {
    // 0xf5 to 0xf8 never occur in UTF-8: here they pick the longer tokens.
    ids.push_back(data[i] >= 0xf5 && data[i] <= 0xf8 ? 256 + data[i] - 0xf5 : data[i]);
  }
  check(tokenizer, ids, IllFormed::kReplace);
  check(tokenizer, ids, IllFormed::kKeep);
  return 0;
}
