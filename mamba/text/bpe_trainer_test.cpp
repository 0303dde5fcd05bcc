#include "mamba/text/bpe_trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "mamba/base/file.h"
#include "mamba/base/json.h"
#include "mamba/base/threads.h"
#include "mamba/text/gpt2_words.h"
#include "mamba/text/tokenizer.h"

namespace mamba::text {
namespace {

namespace fs = std::filesystem;

const fs::path kTrainings = fs::path(MAMBA_SOURCE_DIR) / "tests/golden/bpe";

std::string trained(const std::vector<std::string>& texts, int64_t vocab_size) {
  BpeTrainer trainer({.vocab_size = vocab_size});
  trainer.count(texts);
  return trainer.train();
}

std::string merges_hash(const Json& merges) {
  uint64_t value = 0xcbf29ce484222325u;
  for (const Json& merge : merges) {
    for (const char c : merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n") {
      value = (value ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    }
  }
  return fmt::format("{:016x}", value);
}

TEST(BpeTrainer, LearnsWhatTokenizersLearns) {
  const Json expected = read_json(kTrainings / "expected.json");
  const std::string text = trained({read_file(kTrainings / "corpus.txt")}, 700);
  const Json json = parse_json(text, "trained");
  EXPECT_EQ(json["model"]["merges"], expected["merges"]);
  const size_t size = 257 + expected["merges"].size();  // 587: the corpus gives no more
  EXPECT_EQ(json["model"]["vocab"].size(), size);
  const Tokenizer tokenizer = Tokenizer::from_json_text(text, "trained");
  EXPECT_EQ(tokenizer.vocab_size(), static_cast<int64_t>(size));
  EXPECT_EQ(tokenizer.token_to_id("<|endoftext|>"), 0);
  for (const Json& item : expected["texts"]) {
    EXPECT_EQ(Json(tokenizer.encode(item["text"].get<std::string>())), item["ids"]) << item["text"];
  }
}

TEST(BpeTrainer, LearnsWhatTokenizersLearnsFromTinyShakespeare) {
  const char* folder = std::getenv("MAMBA_TEST_DATA");
  const fs::path path =
      (folder != nullptr ? fs::path(folder) : fs::path(MAMBA_SOURCE_DIR) / "../shared/data") / "tinyshakespeare.txt";
  if (!fs::exists(path)) {
    GTEST_SKIP() << "tinyshakespeare.txt is not at hand (MAMBA_TEST_DATA names its folder)";
  }
  const Json json = parse_json(trained({read_file(path)}, 2048), "trained");
  EXPECT_EQ(merges_hash(json["model"]["merges"]), read_json(kTrainings / "expected.json")["shakespeare"]);
}

TEST(BpeTrainer, DoesNotDependOnPiecesOrThreads) {
  const std::string text = read_file(kTrainings / "corpus.txt");
  const std::string whole = trained({text}, 500);
  std::vector<std::string> pieces;
  for (std::string_view rest = text; !rest.empty();) {
    const size_t size = rest.size() > 1000 ? gpt2_cut(rest, 1000) : rest.size();
    pieces.emplace_back(rest.substr(0, size));
    rest.remove_prefix(size);
  }
  ASSERT_GT(pieces.size(), 10u);
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    EXPECT_EQ(trained(pieces, 500), whole);
  }
  set_num_threads(0);
}

TEST(BpeTrainer, SpecialTokensSeparateTextsAndAreNotCounted) {
  std::string text;
  for (int i = 0; i < 100; ++i) {
    text += "<|endoftext|>xy";
  }
  const Json json = parse_json(trained({text}, 258), "trained");
  EXPECT_EQ(json["model"]["merges"], parse_json(R"([["x", "y"]])", "test"));
}

TEST(BpeTrainer, EndsWhenEveryWordIsOneToken) {
  const Json json = parse_json(trained({"aaaa b aaaa"}, 1000), "trained");
  // " aaaa" and "aaaa" share "aa"; "Ġb", and so on until nothing is left.
  EXPECT_LT(json["model"]["vocab"].size(), 270u);
  const Tokenizer tokenizer = Tokenizer::from_json_text(json_text(json), "trained");
  EXPECT_EQ(tokenizer.encode("aaaa").size(), 1u);
  EXPECT_EQ(tokenizer.encode(" aaaa").size(), 1u);
  EXPECT_EQ(tokenizer.encode(" b").size(), 1u);
}

TEST(BpeTrainer, WithoutTextHasTheBytes) {
  const Tokenizer tokenizer = Tokenizer::from_json_text(trained({}, 257), "trained");
  EXPECT_EQ(tokenizer.vocab_size(), 257);
  EXPECT_EQ(tokenizer.encode("\u00e9").size(), 2u);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("caf\u00e9 <|endoftext|>")), "caf\u00e9 <|endoftext|>");
}

TEST(BpeTrainer, ReadsBrokenUtf8AsTheTokenizerDoes) {
  const Json json = parse_json(trained({std::string("\xff\xff\xff")}, 300), "trained");
  const Tokenizer tokenizer = Tokenizer::from_json_text(json_text(json), "trained");
  EXPECT_EQ(tokenizer.encode("\xff\xff\xff").size(), 1u);
}

TEST(BpeTrainer, RefusesVocabulariesThatCannotBe) {
  EXPECT_THROW(BpeTrainer({.vocab_size = 256}), UsageError);
  EXPECT_THROW(BpeTrainer({.vocab_size = -1}), UsageError);
  EXPECT_THROW(BpeTrainer({.vocab_size = 257, .special_tokens = {"<a>", "<b>"}}), UsageError);
  EXPECT_THROW(BpeTrainer({.vocab_size = int64_t{1} << 40}), UsageError);
  EXPECT_NO_THROW(BpeTrainer({.vocab_size = 257}));
}

}  // namespace
}  // namespace mamba::text
