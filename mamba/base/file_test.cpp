#include "mamba/base/file.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "mamba/base/temporary_directory.h"

namespace mamba {
namespace {

namespace fs = std::filesystem;

size_t entries(const fs::path& folder) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator{}));
}

TEST(File, ReadsPieceByPiece) {
  const TemporaryDirectory folder;
  write_file(folder / "a", "abcdefg");
  InputFile file(folder / "a");
  char out[4] = {};
  EXPECT_EQ(file.read(out, 4), 4u);
  EXPECT_EQ(std::string(out, 4), "abcd");
  EXPECT_EQ(file.read(out, 4), 3u);
  EXPECT_EQ(std::string(out, 3), "efg");
  EXPECT_EQ(file.read(out, 4), 0u);
  EXPECT_THROW(InputFile(folder / "b"), Error);
  EXPECT_THROW(InputFile(folder.path()), Error);
}

TEST(File, ReleasedPagesComeBack) {
  const TemporaryDirectory folder;
  write_file(folder / "a", std::string(100'000, 'x'));
  const MappedFile file(folder / "a");
  EXPECT_EQ(file.text()[99'999], 'x');
  file.release();
  EXPECT_EQ(file.text()[99'999], 'x');
}

TEST(File, WriteThenReadAndMap) {
  const TemporaryDirectory folder;
  const fs::path path = folder / "a.bin";
  std::string text(3'000'001, 'x');
  text[1'000'000] = '\0';
  write_file(path, text);
  EXPECT_EQ(read_file(path), text);
  MappedFile mapped(path);
  EXPECT_EQ(mapped.text(), text);
  MappedFile moved = std::move(mapped);
  EXPECT_EQ(moved.size(), text.size());
  EXPECT_EQ(entries(folder.path()), 1u);
}

TEST(File, KnowsWhatLiesInAMappedFile) {
  const TemporaryDirectory folder;
  write_file(folder / "a", std::string(10'000, 'a'));
  write_file(folder / "b", std::string(10'000, 'b'));
  const char* gone = nullptr;
  {
    MappedFile a(folder / "a");
    const MappedFile b(folder / "b");
    const MappedFile moved = std::move(a);
    gone = moved.text().data();
    for (const MappedFile* file : {&moved, &b}) {
      EXPECT_TRUE(in_mapped_file(file->data()));
      EXPECT_TRUE(in_mapped_file(file->data() + 9'999));
      EXPECT_FALSE(in_mapped_file(file->data() + 10'000));
      EXPECT_FALSE(in_mapped_file(file->data() - 1));
    }
    EXPECT_FALSE(in_mapped_file(&gone));
  }
  EXPECT_FALSE(in_mapped_file(gone));
  EXPECT_FALSE(in_mapped_file(nullptr));
}

TEST(File, EmptyFiles) {
  const TemporaryDirectory folder;
  write_file(folder / "empty", "");
  EXPECT_EQ(read_file(folder / "empty"), "");
  EXPECT_EQ(MappedFile(folder / "empty").size(), 0u);
}

TEST(File, UncommittedWriteLeavesTheOldFile) {
  const TemporaryDirectory folder;
  write_file(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.write("new");
  }
  EXPECT_EQ(read_file(folder / "a"), "old");
  EXPECT_EQ(entries(folder.path()), 1u);
}

TEST(File, WhatAKilledProcessLeftIsNotInTheWay) {
  const TemporaryDirectory place;
  const auto left_behind = [&](unsigned number) { return place / fmt::format("f.{}-{}.tmp", ::getpid(), number); };
  std::string name;
  {
    AtomicFile first(place / "f");
    ASSERT_EQ(unfinished_files(place.path()).size(), 1U);
    name = unfinished_files(place.path()).front().filename().string();
  }
  // Its successors' names are taken, as after a restart with the same process number.
  const auto used = static_cast<unsigned>(std::stoul(name.substr(name.find('-') + 1)));
  for (unsigned i = 1; i <= 3; ++i) {
    std::ofstream(left_behind(used + i)) << "torn";
  }
  write_file(place / "f", "whole");
  EXPECT_EQ(read_file(place / "f"), "whole");
  EXPECT_EQ(unfinished_files(place.path()).size(), 3U);
}

TEST(File, ErrorsNameTheReason) {
  const TemporaryDirectory folder;
  EXPECT_THROW(read_file(folder / "absent"), Error);
  EXPECT_THROW(read_file(folder.path()), Error);
  EXPECT_THROW(MappedFile{folder.path()}, Error);
  EXPECT_THROW(AtomicFile{folder / "no/such/folder/x"}, Error);
  EXPECT_THROW(AtomicFile{folder.path()}, Error);
  EXPECT_THROW(AtomicFile{"/dev/null"}, Error);
  write_file(folder / "a", "12345");
  EXPECT_THROW(read_file(folder / "a", 4), Error);
  EXPECT_THROW(make_directories(folder / "a/b"), Error);
  try {
    read_file(folder / "absent");
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("No such file"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace mamba
