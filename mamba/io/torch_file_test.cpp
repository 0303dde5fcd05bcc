#include "mamba/io/torch_file.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <atomic>
#include <thread>

#include "mamba/base/file.h"
#include "mamba/io/io_testing.h"
#include "mamba/io/safetensors.h"
#include "mamba/io/zip_archive.h"

namespace mamba::io {
namespace {

namespace mx = mlx::core;
using testing::bytes_of;
using testing::contains;
using testing::golden;
using testing::little_endian;
using testing::make_zip;
using testing::message_of;

std::string torch_error(const std::string& bytes) {
  return message_of([&] { read_torch(copy_block(bytes), "m.bin"); });
}

class GoodFile : public ::testing::TestWithParam<const char*> {};

TEST_P(GoodFile, EqualsWhatPythonWroteAsSafetensors) {
  const std::string name = GetParam();
  const auto torch = open_torch(golden(name + ".pt"));
  const auto expected = open_safetensors(golden(name + ".expected.safetensors"));
  testing::expect_same(*torch, *expected);
  EXPECT_TRUE(torch->metadata().empty());
}

TEST_P(GoodFile, CutAnywhereIsAnErrorAndNoCrash) {
  const std::string bytes = read_file(golden(std::string(GetParam()) + ".pt"));
  for (size_t cut = 0; cut < bytes.size(); cut += 7) {
    EXPECT_NE(torch_error(bytes.substr(0, cut)), "no error") << cut;
  }
}

TEST_P(GoodFile, AFlippedByteIsReadOrRefusedButNoCrash) {
  std::string bytes = read_file(golden(std::string(GetParam()) + ".pt"));
  for (size_t at = 0; at < bytes.size(); at += 3) {
    bytes[at] = static_cast<char>(bytes[at] ^ 0xff);
    try {
      const auto source = read_torch(copy_block(bytes), "m.bin");
      for (const std::string& name : source->names()) {
        source->load(name);
      }
    } catch (const Error&) {
    }
    bytes[at] = static_cast<char>(bytes[at] ^ 0xff);
  }
}

INSTANTIATE_TEST_SUITE_P(Files, GoodFile,
                         ::testing::Values("all_dtypes", "all_dtypes_protocol5", "views", "views_deflated",
                                           "module_state", "parameters", "trained"));

TEST(TorchFile, TiedTensorsAndViewsShareTheirBytes) {
  for (const char* name : {"views.pt", "views_deflated.pt"}) {
    const auto source = open_torch(golden(name));
    const mx::array whole = source->load("whole");
    const mx::array tied_a = source->load("tied_a");
    const mx::array tied_b = source->load("tied_b");
    const mx::array tail = source->load("tail");
    if (arrays_in_place()) {
      EXPECT_EQ(tied_a.data<void>(), tied_b.data<void>()) << name;
      EXPECT_EQ(static_cast<const void*>(tail.data<char>()), whole.data<char>() + 4 * 7 * sizeof(float)) << name;
    }
  }
}

TEST(TorchFile, ArraysOutliveTheSource) {
  for (const char* name : {"views.pt", "views_deflated.pt"}) {
    auto source = open_torch(golden(name));
    const mx::array transposed = source->load("transposed");
    const mx::array whole = source->load("whole");
    source.reset();
    EXPECT_TRUE(mx::array_equal(mx::transpose(whole), transposed).item<bool>());
  }
}

TEST(TorchFile, LoadsFromManyThreads) {
  const auto source = open_torch(golden("views_deflated.pt"));
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
          wrong += a.nbytes() != bytes.size() ||
                   (!bytes.empty() && std::memcmp(a.data<char>(), bytes.data(), bytes.size()) != 0);
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(wrong, 0);
}

struct Refusal {
  const char* file;
  const char* message;
};

class RefusedFile : public ::testing::TestWithParam<Refusal> {};

TEST_P(RefusedFile, SaysWhy) {
  const std::string path = golden(std::string("refused_") + GetParam().file + ".pt");
  const std::string message = message_of([&] { open_torch(path); });
  EXPECT_TRUE(message.starts_with(path + ": ")) << message;
  EXPECT_TRUE(contains(message, GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Files, RefusedFile,
    ::testing::Values(Refusal{"system_protocol2", "refuses to load: the pickle calls \"posix.system\" (at byte 2)"},
                      Refusal{"system_protocol5", "refuses to load: the pickle calls \"posix.system\" (at byte"},
                      Refusal{"eval", "refuses to load: the pickle calls \"__builtin__.eval\""},
                      Refusal{"nested", "refuses to load: the pickle calls \"builtins.dict\""},
                      Refusal{"getattr", "refuses to load: the pickle calls \"builtins.getattr\""},
                      Refusal{"object", "refuses to load: the pickle uses the opcode NEWOBJ"},
                      Refusal{"float8", "tensor \"w\" has dtype float8_e4m3fn, which cannot be read"},
                      Refusal{"complex", "tensor \"w\" has dtype complex64, which cannot be read"},
                      Refusal{"big_endian", "has byte order \"big\"; only little-endian files can be read"},
                      Refusal{"no_storage", "lies in storage \"1\", which the archive does not hold"},
                      Refusal{"short_storage", "claims a storage of 6 items of float32 but the archive holds 20 bytes"},
                      Refusal{"single_tensor", "holds a single tensor where a dict of named tensors is needed"},
                      Refusal{"no_tensors", "holds no dict of named tensors but \"epoch\", \"name\""},
                      Refusal{"legacy", "was written in torch's old format, before 1.6"},
                      Refusal{"torchscript", "is a TorchScript program"}),
    [](const auto& test) { return std::string(test.param.file); });

TEST(TorchFile, ContainersThatAreNone) {
  EXPECT_TRUE(contains(torch_error(""), "it is no zip archive"));
  EXPECT_TRUE(contains(torch_error("<html>"), "it is no zip archive"));
  EXPECT_TRUE(contains(torch_error("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"));
  EXPECT_TRUE(contains(torch_error(make_zip({{"a/b", "x"}})), "holds no data.pkl"));
  EXPECT_TRUE(contains(torch_error(make_zip({{"a/data.pkl", "}."}, {"b/data.pkl", "}."}})), "holds two pickles"));
  EXPECT_TRUE(
      contains(torch_error(make_zip({{"a/data.pkl", "}."}})), "holds no dict of named tensors but nothing at all"));
}

// One float32 tensor called w, with numbers of eight bytes throughout.
std::string one_tensor(const std::string& record, uint64_t items, uint64_t offset, const std::vector<uint64_t>& shape,
                       const std::vector<uint64_t>& strides) {
  const auto number = [](uint64_t value) { return "\x8a\x09" + little_endian(value, 8) + std::string(1, '\0'); };
  const auto tuple = [&](const std::vector<uint64_t>& values) {
    std::string text = "(";
    for (const uint64_t value : values) {
      text += number(value);
    }
    return text + "t";
  };
  std::string pickle = "\x80\x02}U\x01wctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\n";
  pickle +=
      "U\x01"
      "0U\x03"
      "cpu" +
      number(items) + "tQ" + number(offset) + tuple(shape) + tuple(strides);
  pickle += "\x89}tRs.";
  return make_zip({{"a/data.pkl", pickle}, {"a/data/0", record}});
}

TEST(TorchFile, TensorsThatReachOutsideOrClaimTheAbsurd) {
  const std::string record(24, '\0');
  EXPECT_EQ(torch_error(one_tensor(record, 6, 0, {2, 3}, {3, 1})), "no error");
  EXPECT_EQ(torch_error(one_tensor(record, 6, 5, {}, {})), "no error");
  EXPECT_EQ(torch_error(one_tensor(record, 6, 100, {0, 3}, {3, 1})), "no error");
  EXPECT_EQ(torch_error(one_tensor("", 0, 0, {0}, {1})), "no error");
  EXPECT_TRUE(contains(torch_error(one_tensor(record, 6, 1, {2, 3}, {3, 1})),
                       "tensor \"w\" of shape (2, 3) and strides (3, 1) at item 1 reaches outside its storage of 6"));
  EXPECT_TRUE(contains(torch_error(one_tensor(record, 6, 6, {}, {})), "reaches outside"));
  EXPECT_TRUE(contains(torch_error(one_tensor(record, 6, INT64_MAX, {1}, {1})), "reaches outside"));
  EXPECT_TRUE(contains(torch_error(one_tensor(record, 6, 0, {2}, {INT64_MAX})), "reaches outside"));
  EXPECT_TRUE(contains(torch_error(one_tensor(record, 6, 0, {3, 2}, {INT64_MAX, 1})), "reaches outside"));
  EXPECT_TRUE(contains(torch_error(one_tensor(record, 6, 0, {7}, {1})), "needs 28 bytes but its storage has 24"));
  EXPECT_TRUE(
      contains(torch_error(one_tensor(record, 6, 0, {1'000'000, 1'000'000}, {0, 0})), "save a contiguous() copy"));
  EXPECT_TRUE(contains(torch_error(one_tensor(record, 6, 0, {uint64_t{1} << 31}, {0})), "an axis of size 2147483648"));
  EXPECT_TRUE(
      contains(torch_error(one_tensor(record, 6, 0, {INT32_MAX, INT32_MAX, INT32_MAX}, {0, 0, 0})), "too large"));
  EXPECT_TRUE(contains(torch_error(one_tensor(record, uint64_t{1} << 62, 0, {1}, {1})), "claims a storage of"));
  EXPECT_TRUE(contains(torch_error(one_tensor(record, UINT64_MAX, 0, {1}, {1})), "claims a storage of"));
  EXPECT_TRUE(contains(torch_error(one_tensor(record, 5, 0, {1}, {1})), "5 items of float32 but the archive holds 24"));
}

TEST(TorchFile, WrongCrcOfAPickle) {
  std::string bytes = one_tensor(std::string(24, '\0'), 6, 0, {6}, {1});
  bytes[bytes.find("torch._utils")] = 'T';
  EXPECT_TRUE(contains(torch_error(bytes), "zip entry \"a/data.pkl\" is damaged: CRC error"));
}

// 200 views of one storage of 1 MB, each of which would be copied.
TEST(TorchFile, ManyStridedViewsOfOneStorage) {
  std::string pickle = "\x80\x02}(";
  const std::string storage =
      "(U\x07storagectorch\nByteStorage\nU\x01"
      "0U\x03"
      "cpuJ" +
      little_endian(1 << 20, 4) + "tQ";
  for (int i = 0; i < 200; ++i) {
    pickle += "X" + little_endian(4, 4) + fmt::format("{:04}", i) + "ctorch._utils\n_rebuild_tensor_v2\n(" + storage;
    pickle += testing::raw("K\0M\0\x04M\0\x04\x86K\1M\0\x04\x86\x89}tR");
  }
  EXPECT_TRUE(contains(torch_error(make_zip({{"a/data.pkl", pickle + "u."}, {"a/data/0", std::string(1 << 20, 'x')}})),
                       "refuses to load: strided views"));
}

}  // namespace
}  // namespace mamba::io
