#include "mamba/train/data/token_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "mamba/base/temporary_directory.h"
#include "mamba/train/data/data_testing.h"
#include "mamba/train/data/npy.h"

namespace mamba::train {
namespace {

using testing::HasSubstr;

std::vector<int32_t> ids_of(const TokenFile& file) {
  std::vector<int32_t> out(static_cast<size_t>(file.tokens.size()));
  file.tokens.copy(0, file.tokens.size(), out.data());
  return out;
}

class TokenFileTest : public testing::Test {
 protected:
  TokenFile open(const std::string& name, std::string_view bytes, int64_t vocab_size = 1000) {
    write_file(folder_ / name, bytes);
    const SourceKind kind = name.ends_with(".npy") ? SourceKind::kNpy : SourceKind::kBin;
    return open_token_file(source_at(folder_ / name, kind), vocab_size, {});
  }
  std::string refusal(const std::string& name, std::string_view bytes, int64_t vocab_size = 1000) {
    return message_of([&] { open(name, bytes, vocab_size); });
  }
  TemporaryDirectory folder_;
};

template <typename T>
std::string npy_of(const std::string& descr, const std::vector<T>& values, int version = 1) {
  return npy_bytes(fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({},), }}", descr, values.size()),
                   bytes_of(values), version);
}

TEST_F(TokenFileTest, ReadsEveryIntegerTypeAndVersion) {
  const std::vector<int32_t> expected = {3, 0, 99, 7, 120};
  const auto same = [&](const std::string& bytes) { EXPECT_EQ(ids_of(open("a.npy", bytes)), expected); };
  const auto as = [&](auto zero) { return std::vector<decltype(zero)>(expected.begin(), expected.end()); };
  for (int version = 1; version <= 3; ++version) {
    same(npy_of("|u1", as(uint8_t{}), version));
    same(npy_of("|i1", as(int8_t{}), version));
    same(npy_of("<u2", as(uint16_t{}), version));
    same(npy_of("<i2", as(int16_t{}), version));
    same(npy_of("<u4", as(uint32_t{}), version));
    same(npy_of("<i4", as(int32_t{}), version));
    same(npy_of("<u8", as(uint64_t{}), version));
    same(npy_of("<i8", as(int64_t{}), version));
    std::vector<uint32_t> swapped = as(uint32_t{});
    for (uint32_t& value : swapped) {
      value = __builtin_bswap32(value);
    }
    same(npy_of(">u4", swapped, version));
    same(npy_of(">i4", swapped, version));
  }
}

TEST_F(TokenFileTest, TwoDimensionsAreDocumentsOneInEachRow) {
  const std::vector<int16_t> values = {1, 2, 3, 4, 5, 6};
  const TokenFile file =
      open("a.npy", npy_bytes("{\"descr\": \"<i2\", \"fortran_order\": False, \"shape\": (2, 3)}", bytes_of(values)));
  EXPECT_FALSE(file.is_stream);
  EXPECT_EQ(file.rows, 2);
  EXPECT_EQ(ids_of(file), (std::vector<int32_t>{1, 2, 3, 4, 5, 6}));
}

TEST_F(TokenFileTest, RefusesWhatIsNoArrayOfIds) {
  const std::string data(24, '\1');
  const auto with = [&](const std::string& descr, const std::string& order, const std::string& shape) {
    return refusal(
        "a.npy", npy_bytes("{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': " + shape + ", }", data));
  };
  EXPECT_THAT(with("'<f4'", "False", "(6,)"), HasSubstr("its dtype is \"<f4\""));
  EXPECT_THAT(with("'|b1'", "False", "(24,)"), HasSubstr("its dtype is \"|b1\""));
  EXPECT_THAT(with("'<i3'", "False", "(8,)"), HasSubstr("dtype"));
  EXPECT_THAT(with("[('a', '<i4')]", "False", "(6,)"), HasSubstr("record"));
  EXPECT_THAT(with("'<i4'", "True", "(2, 3)"), HasSubstr("Fortran order"));
  EXPECT_THAT(with("'<i4'", "False", "(1, 2, 3)"), HasSubstr("shape is (1, 2, 3)"));
  EXPECT_THAT(with("'<i4'", "False", "()"), HasSubstr("its shape is ()"));
  EXPECT_THAT(with("'<i4'", "False", "(7,)"), HasSubstr("cut off"));
  EXPECT_THAT(with("'<i4'", "False", "(5,)"), HasSubstr("damaged"));
  EXPECT_THAT(with("'<i4'", "False", "(4611686018427387905, 4)"), HasSubstr("cut off"));
  EXPECT_THAT(with("'<i4'", "False", "(99999999999999999999,)"), HasSubstr("too large"));
  EXPECT_THAT(with("'<i4'", "False", "(0,)"), HasSubstr("damaged"));
  EXPECT_THAT(refusal("a.npy", ""), HasSubstr("no .npy file"));
  EXPECT_THAT(refusal("a.npy", "PK\3\4 some archive"), HasSubstr("no .npy file"));
  EXPECT_THAT(refusal("a.npy", npy_of("<i4", std::vector<int32_t>{})), HasSubstr("no token"));
  const std::string whole = npy_of("<i4", std::vector<int32_t>{1, 2, 3});
  EXPECT_THAT(refusal("a.npy", whole.substr(0, 40)), HasSubstr("cut off inside its header"));
  EXPECT_THAT(refusal("a.npy", whole.substr(0, whole.size() - 1)), HasSubstr("cut off"));
  std::string newer = whole;
  newer[6] = 4;
  EXPECT_THAT(refusal("a.npy", newer), HasSubstr("version 4"));
}

TEST_F(TokenFileTest, NamesTheFirstIdOutsideTheVocabulary) {
  EXPECT_THAT(refusal("a.npy", npy_of("<i8", std::vector<int64_t>{1, 2, -100, 1000})),
              HasSubstr("a.npy: token -100 at position 2 is outside the vocabulary of 1000"));
  EXPECT_THAT(refusal("a.npy", npy_of("<u8", std::vector<uint64_t>{1, 18446744073709551615u})),
              HasSubstr("token 18446744073709551615 at position 1 "));
  EXPECT_THAT(refusal("a.npy", npy_of("<i8", std::vector<int64_t>{4294967297})), HasSubstr("token 4294967297 at "));
  EXPECT_THAT(refusal("a.npy", npy_of("|i1", std::vector<int8_t>{1, -1})), HasSubstr("token -1 at position 1 "));
  EXPECT_THAT(refusal("a.npy", npy_bytes("{'descr': '<u2', 'fortran_order': False, 'shape': (2, 3)}",
                                         bytes_of(std::vector<uint16_t>{1, 2, 3, 4, 5, 1000}))),
              HasSubstr("(row 1, column 2)"));
  // The first one, whatever thread meets another first.
  std::vector<uint16_t> many(300'001, 5);
  for (const size_t at : {70'000u, 140'000u, 300'000u}) {
    many[at] = static_cast<uint16_t>(1000 + at / 1000);
  }
  EXPECT_THAT(refusal("a.bin", bytes_of(many)), HasSubstr("token 1070 at position 70000 "));
}

TEST_F(TokenFileTest, TellsTwoAndFourByteIdsApart) {
  const std::vector<int32_t> ids = {1, 999, 0, 5, 300, 2, 2, 8, 0, 31};
  const std::vector<uint16_t> narrow(ids.begin(), ids.end());
  const std::vector<uint32_t> wide(ids.begin(), ids.end());
  EXPECT_EQ(ids_of(open("a.bin", bytes_of(narrow))), ids);
  EXPECT_EQ(ids_of(open("a.bin", bytes_of(wide))), ids);
  EXPECT_EQ(ids_of(open("a.bin", bytes_of(narrow), 65536)), ids);
  EXPECT_EQ(ids_of(open("a.bin", bytes_of(wide), 65537)), ids);
  EXPECT_THAT(refusal("a.bin", bytes_of(wide) + "x", 65537), HasSubstr("cut off"));
  EXPECT_THAT(refusal("a.bin", bytes_of(narrow) + "x"), HasSubstr("no whole number of uint16"));
  EXPECT_THAT(refusal("a.bin", ""), HasSubstr("no token"));
}

}  // namespace
}  // namespace mamba::train
