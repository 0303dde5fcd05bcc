#include "mamba/text/stream_decoder.h"

#include <gtest/gtest.h>

#include <random>

#include "mamba/base/json.h"
#include "mamba/text/byte_alphabet.h"
#include "mamba/text/unicode.h"

namespace mamba::text {
namespace {

// Ids 0 to 255 are the bytes; some longer tokens begin and end inside characters.
Json byte_tokenizer() {
  Json vocabulary = Json::object();
  for (int b = 0; b < 256; ++b) {
    vocabulary[std::string(byte_character(static_cast<unsigned char>(b)))] = b;
  }
  int next = 256;
  for (const std::string bytes : {"\xf0\x9f", "\x98\x80", "\xc3", "\xa9 \xe2", "ab", "\x80\xff\xe2\x82"}) {
    std::string token;
    append_as_characters(token, bytes);
    vocabulary.emplace(token, next);
    next = vocabulary.size() > static_cast<size_t>(next) ? next + 1 : next;
  }
  return {{"version", "1.0"},
          {"added_tokens", Json::array({{{"id", next}, {"content", "<|endoftext|>"}, {"special", true}}})},
          {"decoder", {{"type", "ByteLevel"}}},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}};
}

Tokenizer loaded(const Json& json) {
  return Tokenizer::from_json_text(json_text(json), "tokenizer.json");
}

std::vector<int32_t> ids_of(std::string_view bytes) {
  std::vector<int32_t> ids;
  for (unsigned char c : bytes) {
    ids.push_back(c);
  }
  return ids;
}

TEST(StreamDecoder, HoldsACharacterBackUntilItIsComplete) {
  const Tokenizer tokenizer = loaded(byte_tokenizer());
  StreamDecoder stream(tokenizer);
  EXPECT_EQ(stream.push(0xf0), "");
  EXPECT_EQ(stream.push(0x9f), "");
  EXPECT_EQ(stream.push(0x98), "");
  EXPECT_EQ(stream.push(0x80), "\xf0\x9f\x98\x80");
  EXPECT_EQ(stream.push('a'), "a");
  EXPECT_EQ(stream.push(0xc3), "");
  EXPECT_EQ(stream.finish(), "\xef\xbf\xbd");
  EXPECT_EQ(stream.finish(), "");
}

TEST(StreamDecoder, WhatCannotBecomeACharacterComesOutAtOnce) {
  const Tokenizer tokenizer = loaded(byte_tokenizer());
  StreamDecoder replacing(tokenizer);
  StreamDecoder keeping(tokenizer, IllFormed::kKeep);
  EXPECT_EQ(replacing.push(0xff), "\xef\xbf\xbd");
  EXPECT_EQ(keeping.push(0xff), "\xff");
  EXPECT_EQ(replacing.push(0xe2), "");
  EXPECT_EQ(replacing.push('a'),
            "\xef\xbf\xbd"
            "a");
  EXPECT_EQ(keeping.push(0xe2), "");
  EXPECT_EQ(keeping.push(0x82), "");
  EXPECT_EQ(keeping.push('a'),
            "\xe2\x82"
            "a");
  EXPECT_EQ(keeping.push(0xe2), "");
  EXPECT_EQ(keeping.finish(), "\xe2");
}

TEST(StreamDecoder, SkipsSpecialTokensAndIdsWithoutToken) {
  const Tokenizer tokenizer = loaded(byte_tokenizer());
  const int32_t end = *tokenizer.token_to_id("<|endoftext|>");
  StreamDecoder skipping(tokenizer, IllFormed::kReplace, true);
  EXPECT_EQ(skipping.push(end), "");
  EXPECT_EQ(skipping.push('x'), "x");
  StreamDecoder stream(tokenizer);
  EXPECT_EQ(stream.push(end), "<|endoftext|>");
  EXPECT_EQ(stream.push(99'999), "");
  EXPECT_EQ(stream.push(-1), "");
  EXPECT_EQ(stream.push('y'), "y");
}

// Every decoder, random ids: pieces are whole characters and together they are what decode() gives.
TEST(StreamDecoder, PiecesAreWholeAndAddUpForEveryDecoder) {
  const Json space_mark = {{"String", "\u0120"}};
  const Json strip = {{"type", "Strip"}, {"content", "a"}, {"start", 2}, {"stop", 0}};
  const Json strip_wide = {{"type", "Strip"}, {"content", "\u00e9"}, {"start", 2}, {"stop", 0}};
  const Json strip_end = {{"type", "Strip"}, {"content", "a"}, {"start", 0}, {"stop", 3}};
  const Json replace = {{"type", "Replace"}, {"pattern", space_mark}, {"content", " "}};
  const Json replace_a = {{"type", "Replace"}, {"pattern", {{"Regex", "a+"}}}, {"content", "aa"}};
  const Json bytes = {{"type", "ByteLevel"}};
  const Json fuse = {{"type", "Fuse"}};
  const Json fallback = {{"type", "ByteFallback"}};
  const Json meta = {{"type", "Metaspace"}, {"replacement", "a"}, {"prepend_scheme", "always"}};
  const Json suffix = {{"type", "BPEDecoder"}, {"suffix", "a"}};
  const std::vector<Json> chains = {Json(nullptr),
                                    Json::array({bytes}),
                                    Json::array({bytes, strip}),
                                    Json::array({bytes, strip_wide}),
                                    Json::array({bytes, strip_end}),
                                    Json::array({bytes, replace_a}),
                                    Json::array({replace, fallback, fuse, strip}),
                                    Json::array({strip_end, bytes}),
                                    Json::array({meta}),
                                    Json::array({suffix}),
                                    Json::array({fallback, strip}),
                                    Json::array({fuse, bytes}),
                                    Json::array({meta, fuse, strip_wide}),
                                    Json::array({}),
                                    Json::array({bytes, fuse, strip}),
                                    Json::array({strip, replace_a, fuse, fuse})};
  std::mt19937 random(5);
  for (const Json& chain : chains) {
    Json json = byte_tokenizer();
    json["decoder"] = chain.is_null() ? chain : Json{{"type", "Sequence"}, {"decoders", chain}};
    const Tokenizer tokenizer = loaded(json);
    SCOPED_TRACE(json_text(chain));
    for (int round = 0; round < 300; ++round) {
      std::vector<int32_t> ids;
      const size_t count = random() % 12;
      for (size_t i = 0; i < count; ++i) {
        const std::vector<int32_t> likely = {'a', 0xc3, 0xa9, 0xf0, 0x9f, 0x98, 0x80,
                                             256, 257,  258,  259,  260,  261,  ' '};
        ids.push_back(random() % 4 == 0 ? static_cast<int32_t>(random() % 270) : likely[random() % likely.size()]);
      }
      for (IllFormed ill_formed : {IllFormed::kReplace, IllFormed::kKeep}) {
        StreamDecoder stream(tokenizer, ill_formed);
        std::string all;
        for (int32_t id : ids) {
          const std::string part = stream.push(id);
          if (ill_formed == IllFormed::kReplace) {
            ASSERT_EQ(well_formed_prefix(part), part.size());
          }
          all += part;
        }
        all += stream.finish();
        ASSERT_EQ(all, ill_formed == IllFormed::kReplace ? tokenizer.decode_utf8(ids) : tokenizer.decode(ids));
      }
    }
  }
}

TEST(StreamDecoder, CanBeUsedAgainAfterFinish) {
  Json json = byte_tokenizer();
  json["decoder"] = {{"type", "Metaspace"}, {"replacement", "a"}, {"prepend_scheme", "always"}};
  const Tokenizer tokenizer = loaded(json);
  StreamDecoder stream(tokenizer);
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(stream.push('a'), "");
    EXPECT_EQ(stream.push('a'), " ");
    EXPECT_EQ(stream.finish(), "");
  }
  EXPECT_EQ(tokenizer.decode(ids_of("aa")), " ");
}

}  // namespace
}  // namespace mamba::text
