#include "mamba/train/data/train_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "mamba/base/temporary_directory.h"
#include "mamba/text/bpe_trainer.h"
#include "mamba/text/tokenizer_config.h"
#include "mamba/train/data/data_testing.h"
#include "mamba/train/data/dataset.h"
#include "mamba/train/data/text_reader.h"

namespace mamba::train {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(TrainTokenizer, CountsFilesPieceByPieceAsAWhole) {
  const TemporaryDirectory folder;
  std::string text;
  while (text.size() < 3 * TextReader::kPiece) {
    text += fmt::format("Line {} says: \"it's {} or so\",  in  short.\n\n", text.size(), text.size() * 7919 % 1013);
  }
  write_file(folder / "a.txt", text);
  EXPECT_EQ(train_tokenizer({folder / "a.txt"}, 400, folder / "out"), 400);
  text::BpeTrainer trainer({.vocab_size = 400});
  trainer.count(std::vector<std::string>{text});
  EXPECT_TRUE(read_file(folder / "out/tokenizer.json") == trainer.train());
}

TEST(TrainTokenizer, ReadsEveryTextOfJsonLinesAndServesADataset) {
  const TemporaryDirectory folder;
  write_file(folder / "a.jsonl",
             "{\"text\": \"alpha alpha\"}\n\n{\"prompt\": \"bravo bravo\", \"completion\": \"charlie charlie\"}\n"
             "{\"messages\": [{\"role\": \"user\", \"content\": \"delta delta\"}, {\"role\": \"assistant\"}]}\n");
  train_tokenizer({folder.path()}, 300, folder / "out");
  const text::Tokenizer tokenizer = text::Tokenizer::from_file(folder / "out/tokenizer.json");
  for (const char* word : {"alpha", "bravo", "charlie", "delta"}) {
    EXPECT_EQ(tokenizer.encode(word).size(), 1u) << word;
  }
  const text::TokenizerConfig config = text::TokenizerConfig::beside(folder / "out/tokenizer.json");
  EXPECT_EQ(config.eos_token, "<|endoftext|>");
  EXPECT_EQ(text::end_of_text(tokenizer, config), 0);
  write_file(folder / "b.txt", "alpha");
  const auto dataset = Dataset::open(
      {folder / "b.txt"}, {.vocab_size = 300, .tokenizer = folder / "out/tokenizer.json", .cache = folder / "cache"});
  EXPECT_EQ(dataset->stream().size(), 2);
}

TEST(TrainTokenizer, RefusesTokensAndSmallVocabularies) {
  const TemporaryDirectory folder;
  write_file(folder / "a.npy", "x");
  write_file(folder / "b.jsonl", "{\"text\": \"x\"}\n{\"txt\": \"x\"}\n");
  EXPECT_THAT(message_of([&] { train_tokenizer({folder / "a.npy"}, 300, folder / "out"); }),
              HasSubstr("a.npy: holds tokens already"));
  EXPECT_THAT(message_of([&] { train_tokenizer({folder / "b.jsonl"}, 300, folder / "out"); }),
              HasSubstr("b.jsonl:2: "));
  EXPECT_THROW(train_tokenizer({folder / "b.jsonl"}, 256, folder / "out"), UsageError);
  EXPECT_FALSE(fs::exists(folder / "out"));
}

}  // namespace
}  // namespace mamba::train
