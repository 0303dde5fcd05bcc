#include "mamba/io/safetensors.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>
#include <sys/mman.h>

#include <atomic>
#include <thread>

#include "mamba/base/file.h"
#include "mamba/base/temporary_directory.h"
#include "mamba/io/io_testing.h"

namespace mamba::io {
namespace {

namespace mx = mlx::core;
using testing::bytes_of;
using testing::contains;
using testing::golden;
using testing::little_endian;
using testing::message_of;

std::string file_of(const std::string& header, const std::string& data = "") {
  return little_endian(header.size(), 8) + header + data;
}

std::string safetensors_error(const std::string& bytes) {
  return message_of([&] { read_safetensors(copy_block(bytes), "m.safetensors"); });
}

std::string safetensors_error(const std::string& header, size_t data_bytes) {
  return safetensors_error(file_of(header, std::string(data_bytes, '\0')));
}

TEST(Safetensors, ReadsWhatPythonWrote) {
  const auto source = open_safetensors(golden("python.safetensors"));
  EXPECT_EQ(source->metadata(), (Metadata{{"format", "pt"}, {"made by", "öäü \n"}}));
  EXPECT_EQ(source->names().size(), 16u);
  EXPECT_TRUE(source->info("t.float64").dtype == mx::float64);
  EXPECT_EQ(source->info("t.int16").shape, (mx::Shape{3, 5}));
  EXPECT_EQ(source->load("scalar").shape(), mx::Shape{});
  EXPECT_EQ(source->load("scalar").item<float>(), 1.25f);
  EXPECT_EQ(source->load("empty").shape(), (mx::Shape{0, 4}));
  const mx::array u64 = source->load("t.uint64");
  const mx::array f32 = source->load("t.float32");
  for (int i = 0; i < 15; ++i) {
    EXPECT_EQ(u64.data<uint64_t>()[i], static_cast<uint64_t>(i + 7) * 7 + 1);
    EXPECT_EQ(f32.data<float>()[i], static_cast<float>((i + 11) * 0.37 - 5.0));
    EXPECT_EQ(source->load("t.bool").data<uint8_t>()[i], i % 3 == 0 ? 1 : 0);
  }
  EXPECT_EQ(total_bytes(*source), 15u * (1 + 1 + 1 + 2 + 2 + 4 + 4 + 8 + 8 + 2 + 2 + 4 + 8) + 4 + 12);
}

TEST(Safetensors, EmptyFilesAndBlanksAreFine) {
  EXPECT_TRUE(read_safetensors(copy_block(file_of("{}")), "m")->names().empty());
  EXPECT_TRUE(read_safetensors(copy_block(file_of("{\"__metadata__\":{}}      ")), "m")->names().empty());
  const auto source = read_safetensors(copy_block(file_of(R"({"z":{"shape":[7,0],"dtype":"F16","data_offsets":[2,2]},
                             "a":{"data_offsets":[0,2],"dtype":"BF16","shape":[]}})",
                                                          "\x80\x3f")),
                                       "m");
  EXPECT_EQ(source->load("z").size(), 0u);
  EXPECT_EQ(mx::astype(source->load("a"), mx::float32).item<float>(), 1.0f);
}

TEST(Safetensors, ArraysLieInTheFileAndOutliveTheSource) {
  const TemporaryDirectory folder;
  std::string data(3 * 4096 + 4, '\0');
  data[4096] = '\x01';
  const std::string header = R"({"big":{"dtype":"U32","shape":[3073],"data_offsets":[0,12292]}})";
  write_file(folder / "a.safetensors", file_of(header + std::string((64 - (header.size() + 8) % 64) % 64, ' '), data));
  auto source = open_safetensors(folder / "a.safetensors");
  mx::array first = source->load("big");
  mx::array second = source->load("big");
  if (arrays_in_place()) {
    EXPECT_EQ(first.data<void>(), second.data<void>());
  }
  source.reset();
  EXPECT_EQ(mx::sum(first).item<uint32_t>(), 1u);
  first = mx::array(0);  // gives the pages back
  EXPECT_EQ(mx::sum(second).item<uint32_t>(), 1u);
  // MLX must not write into the mapping, although it is the only one to hold it: that would end the process.
  second = second + mx::array(1u);
  EXPECT_EQ(mx::sum(second).item<uint32_t>(), 3074u);
  EXPECT_EQ(read_file(folder / "a.safetensors").substr(8 + header.size() + (64 - (header.size() + 8) % 64) % 64), data);
}

TEST(Safetensors, MisalignedTensorsAreCopied) {
  for (size_t pad = 0; pad < 8; ++pad) {
    const std::string header = R"({"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})" + std::string(pad, ' ');
    const double value = 0.1;
    const auto source = read_safetensors(
        copy_block(file_of(header, std::string(reinterpret_cast<const char*>(&value), sizeof(value)))), "m");
    const mx::array a = source->load("a");
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data<double>()) % sizeof(double), 0u);
    EXPECT_EQ(a.data<double>()[0], value);
  }
}

TEST(Safetensors, LoadsFromManyThreads) {
  const auto source = open_safetensors(golden("python.safetensors"));
  std::map<std::string, std::string> expected;
  for (const std::string& name : source->names()) {
    expected[name] = bytes_of(source->load(name));
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        for (const auto& [name, bytes] : expected) {
          const mx::array a = source->load(name);
          wrong += a.nbytes() != bytes.size() || std::memcmp(a.data<char>(), bytes.data(), bytes.size()) != 0;
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(wrong, 0);
}

TEST(Safetensors, TruncatedFilesAndLyingLengths) {
  EXPECT_EQ(safetensors_error(""), "m.safetensors: is 0 bytes long, too short for a safetensors file (at byte 0)");
  EXPECT_TRUE(contains(safetensors_error("1234567"), "is 7 bytes long"));
  EXPECT_TRUE(contains(safetensors_error(little_endian(100'000'001, 8) + "{}"), "claims a header of 100000001 bytes"));
  EXPECT_TRUE(contains(safetensors_error(little_endian(UINT64_MAX, 8) + "{}"),
                       "claims a header of 18446744073709551615 bytes"));
  EXPECT_TRUE(contains(safetensors_error(little_endian(3, 8) + "{}"), "claims a header of 3 bytes but only 2 follow"));
  EXPECT_TRUE(contains(safetensors_error(little_endian(0, 8)), "the header is not valid JSON"));
  EXPECT_TRUE(contains(safetensors_error("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"));
  const std::string good = read_file(golden("python.safetensors"));
  for (size_t cut = 0; cut < good.size(); ++cut) {
    EXPECT_NE(safetensors_error(good.substr(0, cut)), "no error") << cut;
  }
  EXPECT_TRUE(contains(safetensors_error(good + "x"), "1 bytes after the last tensor belong to no tensor"));
  EXPECT_TRUE(contains(safetensors_error(good.substr(0, good.size() - 1)), "the file is cut off"));
}

TEST(Safetensors, HeadersThatAreNotWhatTheyMustBe) {
  EXPECT_EQ(safetensors_error("[1]", 0), "m.safetensors: the header must be one JSON object but is a list (at byte 9)");
  EXPECT_EQ(safetensors_error("{\"a\":}", 0), "m.safetensors: the header is not valid JSON (at byte 13)");
  for (const char* text : {"", "{", "{}{}", "null", "7", "-7", "1.5", "\"x\"", "true", "{} x", "\xef\xbb\xbf"}) {
    EXPECT_TRUE(contains(safetensors_error(text, 0), "the header")) << text;
  }
  EXPECT_TRUE(contains(safetensors_error("{\"\xff\":{}}", 0), "not valid JSON"));
  EXPECT_TRUE(contains(safetensors_error("{\"a\":1e999}", 0), "a number is out of range"));
  EXPECT_TRUE(contains(safetensors_error("{\"a\":3}", 0), "header entry \"a\" must be an object but is the number 3"));
  EXPECT_TRUE(contains(safetensors_error(std::string(100'000, '['), 0), "must be one JSON object"));
  EXPECT_TRUE(contains(safetensors_error("{\"a\":{\"shape\":[[", 0), "must hold sizes but has a list"));
  EXPECT_TRUE(contains(safetensors_error("{\"__metadata__\":{\"k\":1}}", 0), "metadata \"k\" must be a string"));
  EXPECT_TRUE(contains(safetensors_error("{\"__metadata__\":{\"k\":{}}}", 0), "metadata \"k\" must be a string"));
  EXPECT_TRUE(contains(safetensors_error("{\"__metadata__\":[]}", 0), "must be an object"));
}

TEST(Safetensors, KeysThatComeTwice) {
  const std::string tensor = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  EXPECT_EQ(safetensors_error(fmt::format("{{\"a\":{}, \"a\":{}}}", tensor, tensor), 1),
            "m.safetensors: the header names \"a\" twice (at byte 62)");
  EXPECT_TRUE(
      contains(safetensors_error(fmt::format("{{\"a\":{},\"\\u0061\":{}}}", tensor, tensor), 1), "names \"a\" twice"));
  EXPECT_TRUE(contains(safetensors_error("{\"__metadata__\":{},\"__metadata__\":{}}", 0), "\"__metadata__\" twice"));
  EXPECT_TRUE(contains(safetensors_error("{\"__metadata__\":{\"k\":\"\",\"k\":\"\"}}", 0), "names \"k\" twice"));
  EXPECT_TRUE(contains(safetensors_error(R"({"a":{"dtype":"U8","dtype":"U8"}})", 0), "field \"dtype\" twice"));
  EXPECT_TRUE(contains(safetensors_error(R"({"a":{"shape":[],"shape":[]}})", 0), "field \"shape\" twice"));
  EXPECT_TRUE(
      contains(safetensors_error(R"({"a":{"data_offsets":[],"data_offsets":[]}})", 0), "field \"data_offsets\" twice"));
}

TEST(Safetensors, FieldsThatLieOrLack) {
  const auto error = [](const std::string& fields, size_t data) {
    return safetensors_error(fmt::format("{{\"a\":{{{}}}}}", fields), data);
  };
  EXPECT_TRUE(contains(error("", 0), "tensor \"a\" has no complete dtype (at byte 9)"));
  EXPECT_TRUE(contains(error(R"("dtype":"U8")", 0), "has no complete shape"));
  EXPECT_TRUE(contains(error(R"("dtype":"U8","shape":[])", 0), "has no complete data_offsets"));
  EXPECT_TRUE(contains(error(R"("dtype":"U8","shape":[],"data_offsets":[0])", 0), "has no complete data_offsets"));
  EXPECT_TRUE(contains(error(R"("dtype":"U8","shape":[],"data_offsets":[0,1,2])", 0), "must be two offsets"));
  EXPECT_TRUE(
      contains(error(R"("dtype":"U8","shape":[],"data_offsets":[-1,0])", 0), "two offsets but has the number -1"));
  EXPECT_TRUE(contains(error(R"("dtype":"F32","shape":[2.0])", 0), "must hold sizes but has the number 2.0"));
  EXPECT_TRUE(contains(error(R"("dtype":"F32","shape":[-2])", 0), "must hold sizes but has the number -2"));
  EXPECT_TRUE(contains(error(R"("dtype":"F32","shape":["2"])", 0), "must hold sizes but has the string"));
  EXPECT_TRUE(
      contains(error(R"("dtype":"F32","shape":2)", 0), "field \"shape\" of tensor \"a\" must not be the number"));
  EXPECT_TRUE(contains(error(R"("dtype":3)", 0), "field \"dtype\" of tensor \"a\" must not be"));
  EXPECT_TRUE(contains(error(R"("dtype":"f32")", 0), "dtype \"f32\", which cannot be read"));
  EXPECT_TRUE(contains(error(R"("stride":[1])", 0), "unknown field \"stride\""));
  EXPECT_TRUE(contains(error(R"("dtype":"F32","shape":[2,3],"data_offsets":[0,20])", 20),
                       "of shape (2, 3) and dtype float32 needs 24 bytes but its data_offsets are 0 and 20"));
  EXPECT_TRUE(contains(error(R"("dtype":"U8","shape":[2],"data_offsets":[2,0])", 2), "data_offsets are 2 and 0"));
  EXPECT_TRUE(contains(error(R"("dtype":"U8","shape":[3],"data_offsets":[0,3])", 2), "only 2 bytes of data follow"));
  EXPECT_TRUE(contains(error(R"("dtype":"U8","shape":[2147483648],"data_offsets":[0,2147483648])", 2),
                       "axis of size 2147483648"));
  EXPECT_TRUE(contains(error(R"("dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,1])", 2),
                       "must hold sizes but has the number 99999999999999999999"));
  // 2^31-1 cubed overflows 64 bits; so does the stride of an empty tensor of such a shape.
  for (const char* shape : {"2147483647,2147483647,2147483647", "0,2147483647,2147483647,2147483647"}) {
    EXPECT_TRUE(contains(error(fmt::format(R"("dtype":"F64","shape":[{}],"data_offsets":[0,0])", shape), 0),
                         "too large for any memory"));
  }
  std::string axes = "1";
  for (int i = 0; i < 32; ++i) {
    axes += ",1";
  }
  EXPECT_TRUE(
      contains(error(R"("dtype":"U8","shape":[)" + axes + R"(],"data_offsets":[0,1])", 1), "more than 32 axes"));
}

TEST(Safetensors, TensorsMustCoverTheData) {
  const auto tensor = [](const char* name, int begin, int end) {
    return fmt::format(R"("{}":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}})", name, end - begin, begin, end);
  };
  const auto two = [](const std::string& a, const std::string& b) { return fmt::format("{{{},{}}}", a, b); };
  EXPECT_EQ(safetensors_error(two(tensor("a", 4, 8), tensor("b", 0, 4)), 8), "no error");
  EXPECT_TRUE(
      contains(safetensors_error(two(tensor("a", 0, 4), tensor("b", 3, 8)), 8), "tensors \"a\" and \"b\" overlap"));
  EXPECT_TRUE(contains(safetensors_error(two(tensor("a", 0, 4), tensor("b", 0, 4)), 4), "overlap"));
  EXPECT_TRUE(contains(safetensors_error(two(tensor("a", 0, 4), tensor("b", 2, 2)), 4), "overlap"));
  EXPECT_TRUE(
      contains(safetensors_error(two(tensor("a", 0, 4), tensor("b", 6, 8)), 8), "2 bytes before tensor \"b\" belong"));
  EXPECT_TRUE(
      contains(safetensors_error(fmt::format("{{{}}}", tensor("a", 1, 4)), 4), "1 bytes before tensor \"a\" belong"));
  EXPECT_TRUE(
      contains(safetensors_error(fmt::format("{{{}}}", tensor("a", 0, 4)), 6), "2 bytes after the last tensor belong"));
  EXPECT_TRUE(contains(safetensors_error("{}", 6), "6 bytes after the last tensor belong"));
}

TEST(Safetensors, NamesWhatIsMissing) {
  EXPECT_TRUE(contains(message_of([] { open_safetensors(golden("refused_float8.safetensors")); }),
                       "tensor \"w\" has dtype \"F8_E4M3\", which cannot be read"));
  EXPECT_TRUE(contains(message_of([] { open_safetensors("/absent/m.safetensors"); }), "No such file"));
  const auto source = open_safetensors(golden("python.safetensors"));
  EXPECT_FALSE(source->has("absent"));
  EXPECT_TRUE(contains(message_of([&] { source->load("absent"); }), "python.safetensors: has no tensor \"absent\""));
  EXPECT_TRUE(contains(message_of([&] { (void)source->info("a\nb"); }), "has no tensor \"a\\x0ab\""));
}

}  // namespace
}  // namespace mamba::io
