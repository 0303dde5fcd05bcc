#include "mamba/io/zip_archive.h"

#include <gtest/gtest.h>

#include "mamba/io/io_testing.h"

namespace mamba::io {
namespace {

using testing::contains;
using testing::little_endian;
using testing::make_zip;
using testing::message_of;

std::string zip_error(const std::string& bytes) {
  return message_of([&] { ZipArchive(copy_block(bytes), "m.zip"); });
}

std::string replaced(std::string bytes, size_t at, uint64_t value, int width) {
  return bytes.replace(at, static_cast<size_t>(width), little_endian(value, width));
}

TEST(ZipArchive, StoredAndDeflatedEntries) {
  const std::string text(5000, 'x');
  for (const bool deflated : {false, true}) {
    const ZipArchive archive(copy_block(make_zip({{"a/b", text}, {"empty", ""}, {"c", "short"}}, deflated)), "m.zip");
    ASSERT_EQ(archive.entries().size(), 3u);
    const ZipArchive::Entry* entry = archive.find("a/b");
    ASSERT_NE(entry, nullptr);
    EXPECT_EQ(entry->stored, !deflated);
    EXPECT_EQ(archive.data(*entry).text(), text);
    EXPECT_EQ(archive.read(*entry, 5000), text);
    EXPECT_EQ(archive.data(*archive.find("empty")).text(), "");
    EXPECT_EQ(archive.data(*archive.find("c")).text(), "short");
    EXPECT_EQ(archive.find("a"), nullptr);
    EXPECT_TRUE(contains(message_of([&] { archive.read(*entry, 4999); }), "is 5000 bytes long, more than the 4999"));
    const Block first = archive.data(*entry);
    EXPECT_EQ(archive.data(*entry).data, first.data);
  }
}

TEST(ZipArchive, CutFiles) {
  const std::string bytes = make_zip({{"a", "1"}, {"b", "2"}});
  EXPECT_EQ(zip_error(bytes), "no error");
  for (size_t cut = 0; cut < bytes.size(); ++cut) {
    EXPECT_TRUE(contains(zip_error(bytes.substr(0, cut)), "the file is cut off")) << cut;
  }
}

TEST(ZipArchive, DirectoriesThatLie) {
  const std::string bytes = make_zip({{"name", "12345"}});
  const size_t local = 0;
  const size_t central = bytes.find("PK\x01\x02");
  const size_t end = bytes.find("PK\x05\x06");
  const auto error = [&](size_t at, uint64_t value, int width) { return zip_error(replaced(bytes, at, value, width)); };
  EXPECT_TRUE(contains(error(end + 10, 0xffff, 2), "does not fit the file"));
  EXPECT_TRUE(contains(error(end + 10, 2, 2), "does not fit the file"));
  EXPECT_TRUE(contains(error(end + 12, 0xffffff, 4), "does not fit the file"));
  EXPECT_TRUE(contains(error(end + 16, 0xffffffff, 4), "does not fit the file"));
  EXPECT_TRUE(contains(error(end + 16, central - 1, 4), "directory is damaged"));
  EXPECT_TRUE(contains(error(end + 20, 1, 2), "the file is cut off"));
  EXPECT_TRUE(contains(error(central + 8, 1, 2), "is encrypted"));
  EXPECT_TRUE(contains(error(central + 10, 14, 2), "packed with method 14"));
  EXPECT_TRUE(contains(error(central + 24, 50, 4), "is stored but claims 50 bytes in 5"));
  EXPECT_TRUE(contains(error(central + 28, 0xffff, 2), "longer than the directory"));
  EXPECT_TRUE(contains(error(central + 42, 7, 4), "says that it starts at 7, where none does"));
  EXPECT_TRUE(contains(error(central + 42, 0xfffffff0, 4), "where none does"));
  EXPECT_TRUE(contains(error(local + 28, 0xffff, 2), "does not fit the file"));
  EXPECT_TRUE(contains(error(local + 30, 'N', 1), "has another name where it starts"));
  const std::string larger = replaced(replaced(bytes, central + 20, 5000, 4), central + 24, 5000, 4);
  EXPECT_TRUE(contains(zip_error(larger), "of 5000 bytes at 0 does not fit the file"));
}

TEST(ZipArchive, NamesThatComeTwice) {
  std::string bytes = make_zip({{"aa", "1"}, {"bb", "2"}});
  for (size_t at = bytes.find("bb"); at != std::string::npos; at = bytes.find("bb")) {
    bytes.replace(at, 2, "aa");
  }
  EXPECT_TRUE(contains(zip_error(bytes), "zip entry \"aa\" is there twice"));
}

// What torch writes beyond 4 GB, with the large numbers replaced by small ones.
std::string zip64(uint64_t size, uint64_t offset, uint64_t directory_at) {
  const std::string local = "PK\x03\x04" + little_endian(45, 2) + std::string(8, '\0') + little_endian(0xcbf53a1c, 4) +
                            little_endian(5, 4) + little_endian(5, 4) + little_endian(1, 2) + little_endian(0, 2) + "a";
  const std::string extra = little_endian(1, 2) + little_endian(24, 2) + little_endian(size, 8) +
                            little_endian(size, 8) + little_endian(offset, 8);
  const std::string central = "PK\x01\x02" + little_endian(45, 2) + little_endian(45, 2) + std::string(8, '\0') +
                              little_endian(0xcbf53a1c, 4) + std::string(8, '\xff') + little_endian(1, 2) +
                              little_endian(extra.size(), 2) + std::string(10, '\0') + std::string(4, '\xff') + "a" +
                              extra;
  const uint64_t central_at = local.size() + 5;
  const std::string end64 = "PK\x06\x06" + little_endian(44, 8) + little_endian(45, 2) + little_endian(45, 2) +
                            std::string(8, '\0') + little_endian(1, 8) + little_endian(1, 8) +
                            little_endian(central.size(), 8) + little_endian(central_at, 8);
  const uint64_t end64_at = directory_at == 0 ? central_at + central.size() : directory_at;
  const std::string locator = "PK\x06\x07" + little_endian(0, 4) + little_endian(end64_at, 8) + little_endian(1, 4);
  const std::string end = "PK\x05\x06" + std::string(4, '\0') + std::string(12, '\xff') + std::string(2, '\0');
  return local + "12345" + central + end64 + locator + end;
}

TEST(ZipArchive, Zip64) {
  const ZipArchive archive(copy_block(zip64(5, 0, 0)), "m.zip");
  EXPECT_EQ(archive.data(archive.entries().at(0)).text(), "12345");
  EXPECT_EQ(archive.read(archive.entries()[0], 5), "12345");
  EXPECT_TRUE(contains(zip_error(zip64(uint64_t{1} << 40, 0, 0)), "does not fit the file"));
  EXPECT_TRUE(contains(zip_error(zip64(UINT64_MAX, 0, 0)), "does not fit the file"));
  EXPECT_TRUE(contains(zip_error(zip64(5, UINT64_MAX - 3, 0)), "where none does"));
  EXPECT_TRUE(contains(zip_error(zip64(5, 0, 1)), "64-bit directory is not where its locator says"));
  EXPECT_TRUE(contains(zip_error(zip64(5, 0, UINT64_MAX)), "64-bit directory is not where its locator says"));
}

// The claim alone is refused, before anything is inflated.
TEST(ZipArchive, Bombs) {
  const auto claiming = [](int entries, uint64_t size_of_each) {
    std::vector<std::pair<std::string, std::string>> records;
    for (int i = 0; i < entries; ++i) {
      records.emplace_back(fmt::format("{}", i), std::string(1000, 'x'));
    }
    std::string bytes = make_zip(records, true);
    for (size_t at = bytes.find("PK\x01\x02"); at != std::string::npos; at = bytes.find("PK\x01\x02", at + 1)) {
      bytes = replaced(bytes, at + 24, size_of_each, 4);
    }
    return bytes;
  };
  EXPECT_EQ(zip_error(claiming(1, 60 << 20)), "no error");
  EXPECT_TRUE(contains(zip_error(claiming(1, 80 << 20)), "claim to inflate to 83886080 bytes, which weights never do"));
  EXPECT_TRUE(contains(zip_error(claiming(100, 1 << 20)), "refuses to load"));
  EXPECT_TRUE(contains(zip_error(claiming(3, 0xfffffffe)), "claim to inflate to 12884901882 bytes"));
}

TEST(ZipArchive, AsMuchAsDeflateCanDo) {
  const std::string zeros(2 << 20, '\0');
  const ZipArchive archive(copy_block(make_zip({{"a", zeros}}, true)), "m.zip");
  EXPECT_EQ(archive.data(archive.entries()[0]).text(), zeros);
}

TEST(ZipArchive, EntriesThatInflateToSomethingElse) {
  const std::string text(1000, 'x');
  const std::string bytes = make_zip({{"a", text}}, true);
  const size_t central = bytes.find("PK\x01\x02");
  const auto error = [&](size_t at, uint64_t value, int width) {
    return message_of([&] {
      const ZipArchive archive(copy_block(replaced(bytes, at, value, width)), "m.zip");
      archive.data(archive.entries()[0]);
    });
  };
  EXPECT_TRUE(contains(error(central + 24, 999, 4), "zip entry \"a\""));
  EXPECT_TRUE(contains(error(central + 24, 1001, 4), "zip entry \"a\""));
  EXPECT_TRUE(contains(error(central + 16, 0, 4), "is damaged: CRC error"));
  EXPECT_TRUE(contains(error(31, 0xff, 1), "is damaged"));
}

}  // namespace
}  // namespace mamba::io
