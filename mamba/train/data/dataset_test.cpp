#include "mamba/train/data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "mamba/base/temporary_directory.h"
#include "mamba/text/tokenizer.h"
#include "mamba/train/data/data_testing.h"
#include "mamba/train/data/sources.h"

namespace mamba::train {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class DatasetTest : public testing::Test {
 protected:
  std::shared_ptr<const Dataset> open(const std::vector<fs::path>& paths, int64_t vocab_size = 65536) {
    return Dataset::open(paths, {.vocab_size = vocab_size, .tokenizer = kTokenizer, .cache = folder_ / ".cache"});
  }
  TemporaryDirectory folder_;
};

TEST_F(DatasetTest, FindsFilesInFoldersInOrder) {
  for (const char* name : {"b.txt", "a.md", "sub/z.jsonl", "sub/y.TXT", "c.npy", "c.bin", "c.text"}) {
    make_directories((folder_ / name).parent_path());
    write_file(folder_ / name, "");
  }
  for (const char* name : {".hidden.txt", ".git/x.txt", "notes.pdf"}) {
    make_directories((folder_ / name).parent_path());
    write_file(folder_ / name, "");
  }
  std::vector<std::string> names;
  for (const Source& source : find_sources({folder_.path(), folder_ / "notes.pdf"})) {
    names.push_back(fs::relative(source.path, folder_.path()).string());
  }
  EXPECT_EQ(names, (std::vector<std::string>{"a.md", "b.txt", "c.bin", "c.npy", "c.text", "sub/y.TXT", "sub/z.jsonl",
                                             "notes.pdf"}));
}

TEST_F(DatasetTest, RefusesPathsWithoutData) {
  EXPECT_THROW(find_sources({}), UsageError);
  EXPECT_THAT(message_of([&] { find_sources({folder_ / "none"}); }),
              HasSubstr("none: there is no such file or folder"));
  fs::create_directory(folder_ / "empty");
  write_file(folder_ / "empty" / "a.pdf", "x");
  EXPECT_THAT(message_of([&] { find_sources({folder_ / "empty"}); }), HasSubstr("holds no file that ends in .txt"));
  fs::create_directory(folder_ / "loop");
  fs::create_directory_symlink(folder_ / "loop", folder_ / "loop" / "again");
  EXPECT_THROW(find_sources({folder_ / "loop"}), Error);
}

TEST_F(DatasetTest, RepeatsTextCutInOtherWays) {
  std::string text;
  for (int i = 0; i < 50; ++i) {
    text += "To be, or not to be, that is the question.\n";
  }
  write_file(folder_ / "a.txt", text);
  DatasetOptions options{
      .vocab_size = 1024, .tokenizer = kTokenizer, .cache = folder_ / ".cache", .segmentations = 3, .bpe_dropout = 0.2};
  const auto dataset = Dataset::open({folder_ / "a.txt"}, options);
  const auto once = open({folder_ / "a.txt"}, 1024);
  ASSERT_EQ(dataset->stream().document_count(), 3);
  const int64_t proper = once->stream().size();
  EXPECT_EQ(dataset->stream().document_start(1), proper);
  EXPECT_GT(dataset->stream().document_start(2) - proper, proper);
  const text::Tokenizer tokenizer = text::Tokenizer::from_file(kTokenizer);
  std::vector<int32_t> ids(static_cast<size_t>(dataset->stream().size()));
  dataset->stream().copy(0, dataset->stream().size(), ids.data());
  EXPECT_EQ(tokenizer.decode(ids, true), text + text + text);
  EXPECT_EQ(Dataset::open({folder_ / "a.txt"}, options)->fingerprint(), dataset->fingerprint());
  EXPECT_NE(once->fingerprint(), dataset->fingerprint());

  write_file(folder_ / "b.jsonl", "{\"prompt\": \"x\", \"completion\": \"y\"}\n");
  EXPECT_THAT(message_of([&] { Dataset::open({folder_ / "b.jsonl"}, options); }), HasSubstr("is for plain text"));
}

TEST_F(DatasetTest, TextComesFirstThenTokens) {
  write_file(folder_ / "a.npy", npy_bytes("{'descr': '<i4', 'fortran_order': False, 'shape': (3,), }",
                                          bytes_of(std::vector<int32_t>{7, 8, 9})));
  write_file(folder_ / "b.txt", "To be");
  write_file(folder_ / "c.jsonl", "{\"prompt\": \"x\", \"completion\": \"y\"}\n{\"text\": \"or\"}\n");
  const auto dataset = open({folder_.path()});
  EXPECT_TRUE(dataset->has_documents());
  EXPECT_EQ(dataset->statistics().files, 3);
  EXPECT_EQ(dataset->statistics().documents, 3);
  EXPECT_EQ(dataset->statistics().examples, 1);
  EXPECT_EQ(dataset->statistics().tokens, dataset->stream().size() + dataset->examples().size());
  EXPECT_GT(dataset->statistics().bytes, 100);
  EXPECT_EQ(dataset->stream().document_start(2), dataset->stream().size() - 3);
  std::vector<int32_t> last(3);
  dataset->stream().copy(dataset->stream().size() - 3, 3, last.data());
  EXPECT_EQ(last, (std::vector<int32_t>{7, 8, 9}));
}

TEST_F(DatasetTest, TheFingerprintTellsDataApart) {
  write_file(folder_ / "a.txt", "To be");
  write_file(folder_ / "b.bin", bytes_of(std::vector<uint16_t>{1, 2, 3}));
  const std::string both = open({folder_ / "a.txt", folder_ / "b.bin"})->fingerprint();
  EXPECT_EQ(both.size(), 32u);
  EXPECT_EQ(open({folder_ / "a.txt", folder_ / "b.bin"})->fingerprint(), both);
  EXPECT_NE(open({folder_ / "a.txt"})->fingerprint(), both);
  write_file(folder_ / "b.bin", bytes_of(std::vector<uint16_t>{1, 2, 4}));
  const std::string other = open({folder_ / "a.txt", folder_ / "b.bin"})->fingerprint();
  EXPECT_NE(other, both);
  write_file(folder_ / "a.txt", "To bf");
  EXPECT_NE(open({folder_ / "a.txt", folder_ / "b.bin"})->fingerprint(), other);
  EXPECT_NE(Dataset::from_tokens({1, 2}, 5)->fingerprint(), Dataset::from_tokens({1, 3}, 5)->fingerprint());
}

TEST_F(DatasetTest, TextThatTheModelCannotTakeIsRefused) {
  write_file(folder_ / "a.txt", "To be or not to be, that is the question.");
  EXPECT_THAT(message_of([&] { open({folder_ / "a.txt"}, 100); }), HasSubstr("outside the model's vocabulary of 100"));
  EXPECT_THROW(open({folder_ / "a.txt"}, 0), UsageError);
  EXPECT_THAT(message_of([&] { Dataset::open({folder_ / "a.txt"}, {.vocab_size = 100}); }),
              HasSubstr("a.txt: text needs a tokenizer"));
}

}  // namespace
}  // namespace mamba::train
