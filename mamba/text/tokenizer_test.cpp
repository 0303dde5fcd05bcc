#include "mamba/text/tokenizer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <random>
#include <set>
#include <thread>

#include "mamba/base/file.h"
#include "mamba/base/json.h"
#include "mamba/base/temporary_directory.h"
#include "mamba/base/warning.h"

namespace mamba::text {
namespace {

using Ids = std::vector<int32_t>;

const std::string kGolden = std::string(MAMBA_SOURCE_DIR) + "/tests/golden/tokenizer/";

Json base() {
  static const Json json = read_json(kGolden + "bytes.json");
  return json;
}

Tokenizer load(const Json& json) {
  return Tokenizer::from_json_text(json_text(json), "tokenizer.json");
}

Tokenizer patched(const Json& patch) {
  Json json = base();
  json.merge_patch(patch);
  return load(json);
}

// A vocabulary of a few characters and merges, without any other part.
Json tiny(const std::vector<std::string>& tokens, const Json& merges) {
  Json vocabulary = Json::object();
  for (const std::string& token : tokens) {
    vocabulary.emplace(token, vocabulary.size());
  }
  return {{"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}}}};
}

std::string error_of(const Json& json) {
  try {
    load(json);
  } catch (const ParseError& e) {
    EXPECT_EQ(e.file(), "tokenizer.json");
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
    return e.what();
  }
  return "no error";
}

std::string error_of_patch(const Json& patch) {
  Json json = base();
  json.merge_patch(patch);
  return error_of(json);
}

#define EXPECT_ERROR(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(Tokenizer, LooksUpTokens) {
  const Tokenizer tokenizer = load(base());
  EXPECT_EQ(tokenizer.vocab_size(), 1000);
  EXPECT_EQ(tokenizer.max_id(), 999);
  EXPECT_EQ(tokenizer.token_to_id("<|endoftext|>"), 0);
  EXPECT_EQ(tokenizer.id_to_token(0), "<|endoftext|>");
  EXPECT_TRUE(tokenizer.is_special(0));
  EXPECT_FALSE(tokenizer.is_special(1));
  EXPECT_FALSE(tokenizer.is_special(-1));
  EXPECT_EQ(tokenizer.token_to_id("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer.id_to_token(1000), std::nullopt);
  EXPECT_EQ(tokenizer.id_to_token(-1), std::nullopt);
  for (int32_t id = 0; id < 1000; ++id) {
    EXPECT_EQ(tokenizer.token_to_id(*tokenizer.id_to_token(id)), id);
  }
}

TEST(Tokenizer, IdsWithoutTokenDecodeToNothingAndFailTheCheck) {
  const Tokenizer tokenizer = load(base());
  const Ids ids = {40, 1000, -7, INT32_MAX, 41};
  EXPECT_EQ(tokenizer.decode(ids), tokenizer.decode(Ids{40, 41}));
  EXPECT_NO_THROW(tokenizer.check_ids(Ids{0, 999}));
  try {
    tokenizer.check_ids(ids);
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_STREQ(e.what(), "token id 1000 is not in the vocabulary, whose largest id is 999");
  }
  EXPECT_THROW(tokenizer.check_ids(Ids{-7}), UsageError);
}

TEST(Tokenizer, DecodeGivesBackExactBytes) {
  const Tokenizer tokenizer = load(base());
  const std::string text = "caf\u00e9 \U0001f600";
  const Ids ids = tokenizer.encode(text);
  EXPECT_EQ(tokenizer.decode(ids), text);
  std::string joined;
  for (int32_t id : ids) {
    joined += tokenizer.decode(Ids{id});  // single ids may be parts of characters
  }
  EXPECT_EQ(joined, text);
  const Ids half = {*tokenizer.token_to_id("\u00f0"), *tokenizer.token_to_id("\u0141")};
  EXPECT_EQ(tokenizer.decode(half), "\xf0\x9f");
  EXPECT_EQ(tokenizer.decode_utf8(half), "\xef\xbf\xbd");
}

TEST(Tokenizer, RandomTextSurvives) {
  const Tokenizer tokenizer = load(base());
  std::mt19937 random(3);
  for (int round = 0; round < 500; ++round) {
    std::string text;
    for (size_t i = random() % 60; i > 0; --i) {
      const char* parts[] = {"a",   " ", "\n", "\u00e9",        "\u5b57", "\U0001f600",
                             "the", "1", "'s", "<|endoftext|>", "\u0301"};
      text += parts[random() % std::size(parts)];
    }
    ASSERT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

TEST(Tokenizer, DropoutCutsTheSameTextInOtherWays) {
  const std::filesystem::path file =
      std::filesystem::path(MAMBA_SOURCE_DIR) / "assets" / "shakespeare" / "tokenizer.json";
  const Tokenizer tokenizer = Tokenizer::from_file(file);
  const std::string text = "ROMEO:\nShall I hear more, or shall I speak at this? \xE2\x80\x94 ay me, tomorrow tomorrow";
  const std::vector<int32_t> proper = tokenizer.encode(text, false);
  EXPECT_EQ(tokenizer.encode_with_dropout(text, {0, 1}), proper);
  EXPECT_EQ(tokenizer.encode_with_dropout(text, {1, 1}).size(), text.size());
  std::set<std::vector<int32_t>> cuts;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<int32_t> ids = tokenizer.encode_with_dropout(text, {0.2, seed});
    EXPECT_EQ(tokenizer.decode(ids), text);
    EXPECT_EQ(tokenizer.encode_with_dropout(text, {0.2, seed}), ids);
    EXPECT_GE(ids.size(), proper.size());
    cuts.insert(ids);
  }
  EXPECT_GE(cuts.size(), 19u);
}

TEST(Tokenizer, EmptyTextHasOnlyWhatBelongsAroundIt) {
  EXPECT_TRUE(load(base()).encode("").empty());
  const Tokenizer bert =
      patched({{"post_processor", {{"type", "BertProcessing"}, {"sep", {"s", 5}}, {"cls", {"c", 4}}}}});
  EXPECT_EQ(bert.encode(""), (Ids{4, 5}));
  EXPECT_TRUE(bert.encode("", false).empty());
}

TEST(Tokenizer, MergesGoByRankAndThenFromTheLeft) {
  const Tokenizer tokenizer = load(tiny({"a", "b", "aa", "ab", "aab"}, {"a b", "a a", "a ab"}));
  EXPECT_EQ(tokenizer.encode("aab"), (Ids{4}));
  EXPECT_EQ(tokenizer.encode("aaa"), (Ids{2, 0}));
  EXPECT_EQ(tokenizer.encode("aaaab"), (Ids{2, 4}));
  EXPECT_EQ(tokenizer.encode("ba"), (Ids{1, 0}));
}

TEST(Tokenizer, OldFilesAreRead) {
  Json json = tiny({"a", "b", "ab"}, {"#version: 0.2", "a b"});
  json["model"].erase("type");
  EXPECT_EQ(load(json).encode("ab"), (Ids{2}));
  Json pairs = tiny({"a", " ", "a "}, Json::array({Json::array({"a", " "})}));
  EXPECT_EQ(load(pairs).encode("a "), (Ids{2}));
}

TEST(Tokenizer, AnAddedTokenGetsTheNextIdAndAWarningWhenTheFileSaysOtherwise) {
  std::vector<std::string> warnings;
  set_warning_handler([&](const std::string& text) { warnings.push_back(text); });
  Json json = tiny({"a", "b"}, Json::array());
  json["added_tokens"] = {{{"id", 7}, {"content", "<x>"}, {"special", true}}};
  const Tokenizer tokenizer = load(json);
  set_warning_handler(nullptr);
  EXPECT_EQ(tokenizer.encode("a<x>"), (Ids{0, 2}));
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_EQ(warnings[0],
            "tokenizer.json: added token \"<x>\" is meant to have id 7 but gets 2: the vocabulary has 2 tokens");
}

TEST(Tokenizer, UnsupportedPartsAreNamed) {
  EXPECT_ERROR(error_of({{"model", {{"type", "Unigram"}, {"vocab", Json::array()}}}}), "\"Unigram\" is not supported");
  EXPECT_ERROR(error_of({{"model", {{"type", "WordPiece"}}}}), "\"WordPiece\" is not supported");
  EXPECT_ERROR(error_of_patch({{"version", "2.0"}}), "version \"2.0\"");
  EXPECT_ERROR(error_of_patch({{"normalizer", {{"type", "Precompiled"}}}}), "normalizer \"Precompiled\"");
  EXPECT_ERROR(error_of_patch({{"pre_tokenizer", {{"type", "UnicodeScripts"}}}}), "pre-tokenizer \"UnicodeScripts\"");
  EXPECT_ERROR(error_of_patch({{"decoder", {{"type", "CTC"}}}}), "decoder \"CTC\"");
  EXPECT_ERROR(error_of_patch({{"post_processor", {{"type", "X"}, {"trim_offsets", nullptr}}}}),
               "post-processor \"X\"");
}

TEST(Tokenizer, BrokenFilesAreToldWhy) {
  EXPECT_THROW(Tokenizer::from_json_text("", "t"), ParseError);
  EXPECT_THROW(Tokenizer::from_json_text("{\"model\":", "t"), ParseError);
  EXPECT_THROW(Tokenizer::from_json_text("[]", "t"), ParseError);
  EXPECT_ERROR(error_of(Json::object()), "field \"model\" is missing");
  EXPECT_ERROR(error_of({{"model", 3}}), "must be an object");
  EXPECT_ERROR(error_of({{"model", {{"type", "BPE"}, {"merges", Json::array()}}}}), "vocab");
  EXPECT_ERROR(error_of({{"model", {{"type", "BPE"}, {"vocab", Json::object()}}}}), "merges");
  Json json = tiny({"a", "b"}, {"a b"});
  EXPECT_ERROR(error_of(json), "merge 0 (\"a\" \"b\") needs the token \"ab\"");
  EXPECT_ERROR(error_of(tiny({"a"}, {"a"})), "merge 0 must be two tokens");
  EXPECT_ERROR(error_of(tiny({"a"}, {"a a a"})), "merge 0 must be two tokens");
  EXPECT_ERROR(error_of(tiny({"a"}, {1})), "merge 0 must be a string or a pair");
  json = tiny({"a"}, Json::array());
  for (const Json& id : {Json(-1), Json(1.5), Json("0"), Json(4'000'000'000u), Json(nullptr)}) {
    json["model"]["vocab"]["b"] = id;
    EXPECT_ERROR(error_of(json), "token \"b\" must have an id from 0");
  }
  EXPECT_ERROR(error_of_patch({{"added_tokens", Json::object()}}), "\"added_tokens\" must be a list");
  EXPECT_ERROR(error_of_patch({{"added_tokens", {1}}}), "must be an object");
  EXPECT_ERROR(error_of_patch({{"added_tokens", {{{"id", 1}}}}}), "content");
  const Json split = {{"type", "Split"}, {"behavior", "Isolated"}, {"invert", false}};
  Json broken = split;
  EXPECT_ERROR(error_of_patch({{"pre_tokenizer", broken}}), "pattern");
  broken["pattern"] = {{"Regex", "(a"}};
  EXPECT_ERROR(error_of_patch({{"pre_tokenizer", broken}}), "no valid regular expression");
  broken["pattern"] = {{"String", "a"}};
  broken["behavior"] = "Sideways";
  EXPECT_ERROR(error_of_patch({{"pre_tokenizer", broken}}), "\"Sideways\"");
  EXPECT_ERROR(error_of_patch({{"decoder", {{"type", "Strip"}, {"content", "ab"}}}}), "must be one character");
  EXPECT_ERROR(error_of_patch({{"decoder", {{"type", "Strip"}, {"content", ""}}}}), "must be one character");
  const Json loose = {{"type", "TemplateProcessing"},
                      {"special_tokens", Json::object()},
                      {"single", {{{"SpecialToken", {{"id", "<s>"}}}}, {{"Sequence", {{"id", "A"}}}}}}};
  EXPECT_ERROR(error_of_patch({{"post_processor", loose}}), "<s>");
  Json no_text = loose;
  no_text["single"] = Json::array();
  EXPECT_ERROR(error_of_patch({{"post_processor", no_text}}), "must hold it once");
}

TEST(Tokenizer, AFileThatIsNotThereIsAnError) {
  EXPECT_THROW(Tokenizer::from_file("/nonexistent/tokenizer.json"), Error);
  const TemporaryDirectory folder;
  EXPECT_THROW(Tokenizer::from_file(folder.path()), Error);
  write_file(folder / "tokenizer.json", "{");
  try {
    Tokenizer::from_file(folder / "tokenizer.json");
    FAIL();
  } catch (const ParseError& e) {
    EXPECT_EQ(e.file(), (folder / "tokenizer.json").string());
    EXPECT_GE(e.offset(), 0);
  }
}

TEST(Tokenizer, ReplacementsThatExplodeAreAnError) {
  const Json doubling = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
  const Tokenizer tokenizer =
      patched({{"normalizer", {{"type", "Sequence"}, {"normalizers", Json::array_t(60, doubling)}}},
               {"decoder", {{"type", "Sequence"}, {"decoders", Json::array_t(60, doubling)}}}});
  EXPECT_THROW(tokenizer.encode("a"), Error);
  EXPECT_THROW(tokenizer.decode(Ids{*tokenizer.token_to_id("a")}), Error);
  EXPECT_EQ(tokenizer.encode("b").size(), 1u);
}

// Words without a blank must not take quadratic time; a real vocabulary's speed is in docs/performance.md.
TEST(Tokenizer, AMegabyteWithoutBlanksTakesNoQuadraticTime) {
#ifdef MAMBA_SANITIZED
  constexpr int kSize = 200'000;  // quadratic time would still be over the limit
#else
  constexpr int kSize = 1'000'000;
#endif
  const Tokenizer byte_level = load(base());
  const Tokenizer whole =
      patched({{"pre_tokenizer", {{"type", "ByteLevel"}, {"use_regex", false}, {"add_prefix_space", false}}}});
  std::mt19937 random(1);
  std::string letters;
  std::string wide;
  for (int i = 0; i < kSize; ++i) {
    letters += static_cast<char>('a' + random() % 26);
  }
  for (int i = 0; i < kSize / 3; ++i) {
    const char tail[] = {static_cast<char>(0xe4 + random() % 5), static_cast<char>(0x80 + random() % 64),
                         static_cast<char>(0x80 + random() % 64)};
    wide.append(tail, 3);
  }
  for (const std::string& text : {std::string(kSize, 'a'), letters, wide, std::string(kSize, ' ')}) {
    for (const Tokenizer* tokenizer : {&byte_level, &whole}) {
      const auto start = std::chrono::steady_clock::now();
      const Ids ids = tokenizer->encode(text);
      EXPECT_EQ(tokenizer->decode(ids), text);
      EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
    }
  }
}

TEST(Tokenizer, ManyThreadsMayUseOne) {
  const Tokenizer tokenizer = load(base());
  std::vector<std::string> texts;
  std::vector<Ids> expected;
  for (int i = 0; i < 40; ++i) {
    texts.push_back(fmt::format("Thread {} says: caf\u00e9, na\u00efve {} times!\n", i, i * i));
    expected.push_back(tokenizer.encode(texts.back()));
  }
  std::vector<std::thread> threads;
  threads.reserve(4);
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < 400; ++i) {
        const size_t k = (i + static_cast<size_t>(t) * 7) % texts.size();
        wrong += tokenizer.encode(texts[k]) == expected[k] && tokenizer.decode(expected[k]) == texts[k] ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(wrong, 0);
}

TEST(Tokenizer, Moves) {
  Tokenizer a = load(base());
  const Ids ids = a.encode("Moved along");
  Tokenizer b = std::move(a);
  EXPECT_EQ(b.encode("Moved along"), ids);
  a = std::move(b);
  EXPECT_EQ(a.encode("Moved along"), ids);
}

}  // namespace
}  // namespace mamba::text
