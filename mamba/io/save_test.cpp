#include "mamba/io/save.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>

#include "mamba/base/file.h"
#include "mamba/base/json.h"
#include "mamba/base/temporary_directory.h"
#include "mamba/io/checkpoint.h"
#include "mamba/io/io_testing.h"
#include "mamba/io/safetensors.h"

namespace mamba::io {
namespace {

namespace mx = mlx::core;
namespace fs = std::filesystem;
using testing::bytes_of;
using testing::contains;
using testing::golden;
using testing::message_of;

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::map<std::string, mx::array> five_arrays() {
  std::map<std::string, mx::array> arrays;
  for (int i = 0; i < 5; ++i) {
    arrays.emplace(fmt::format("layers.{}.weight", i), mx::arange(100 * i, 100 * i + 60, mx::float32));
  }
  return arrays;
}

TEST(Save, TheLayoutByteForByte) {
  const TemporaryDirectory folder;
  save_safetensors(folder / "m.safetensors", to_save({{"z", mx::array({1, 2}, mx::uint8)},
                                                      {"b", mx::array({1.0f})},
                                                      {"a", mx::array(int64_t{-2}, mx::int64)},
                                                      {"ü\"", mx::array({2.0f})}}));
  const std::string json =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},"ü\"":{"dtype":"F32","shape":[1],"data_offsets":[12,16]},)"
      R"("z":{"dtype":"U8","shape":[2],"data_offsets":[16,18]}})";
  const size_t padded = (json.size() + 8 + 63) / 64 * 64 - 8;
  std::string expected = testing::little_endian(padded, 8) + json + std::string(padded - json.size(), ' ');
  expected += std::string("\xfe\xff\xff\xff\xff\xff\xff\xff\x00\x00\x80\x3f\x00\x00\x00\x40\x01\x02", 18);
  EXPECT_EQ(read_file(folder / "m.safetensors"), expected);
}

TEST(Save, EveryDtypeComesBackBitForBit) {
  const TemporaryDirectory folder;
  const auto original = open_safetensors(golden("python.safetensors"));
  std::map<std::string, mx::array> arrays;
  for (const std::string& name : original->names()) {
    arrays.emplace(name, original->load(name));
  }
  save_safetensors(folder / "m.safetensors", to_save(arrays), original->metadata());
  const auto copy = open_safetensors(folder / "m.safetensors");
  testing::expect_same(*copy, *original);
  EXPECT_EQ(copy->metadata(), original->metadata());
}

TEST(Save, ViewsAreWrittenAsTheirValues) {
  const TemporaryDirectory folder;
  const mx::array base = mx::reshape(mx::arange(0, 42, mx::float32), {6, 7});
  save_safetensors(folder / "m.safetensors", to_save({{"transposed", mx::transpose(base)},
                                                      {"sliced", mx::slice(base, {1, 2}, {6, 7}, {2, 3})},
                                                      {"broadcast", mx::broadcast_to(mx::array(3.0f), {3, 5})},
                                                      {"empty", mx::zeros({0, 3})}}));
  const auto source = open_safetensors(folder / "m.safetensors");
  EXPECT_TRUE(mx::array_equal(source->load("transposed"), mx::transpose(base)).item<bool>());
  EXPECT_TRUE(mx::array_equal(source->load("sliced"), mx::slice(base, {1, 2}, {6, 7}, {2, 3})).item<bool>());
  EXPECT_TRUE(mx::array_equal(source->load("broadcast"), mx::full({3, 5}, 3.0f)).item<bool>());
  EXPECT_EQ(source->info("empty").shape, (mx::Shape{0, 3}));
}

TEST(Save, OverTheFileThatIsBeingRead) {
  const TemporaryDirectory folder;
  const fs::path path = folder / "m.safetensors";
  save_safetensors(path, to_save(five_arrays()));
  const auto source = open_safetensors(path);
  std::vector<TensorToSave> tensors;
  for (const std::string& name : source->names()) {
    const TensorInfo& info = source->info(name);
    tensors.push_back(
        {name, mx::float16, info.shape, [&, name] { return mx::astype(source->load(name), mx::float16); }});
  }
  save_safetensors(path, std::move(tensors));
  const auto again = open_safetensors(path);
  for (const auto& [name, value] : five_arrays()) {
    EXPECT_TRUE(mx::array_equal(again->load(name), mx::astype(value, mx::float16)).item<bool>()) << name;
    EXPECT_TRUE(mx::array_equal(source->load(name), value).item<bool>()) << name;
  }
}

TEST(Save, ShardsAndTheirIndex) {
  const TemporaryDirectory folder;
  const auto arrays = five_arrays();
  save_checkpoint(folder.path(), to_save(arrays), 2 * 240);
  EXPECT_EQ(names_in(folder.path()),
            (std::vector<std::string>{"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                                      "model-00003-of-00003.safetensors", "model.safetensors.index.json"}));
  const Json index = read_json(folder / "model.safetensors.index.json");
  EXPECT_EQ(index["metadata"]["total_size"], 1200);
  EXPECT_EQ(index["weight_map"].size(), 5u);
  EXPECT_EQ(index["weight_map"]["layers.3.weight"], "model-00002-of-00003.safetensors");
  const auto source = open_checkpoint(folder.path());
  EXPECT_EQ(source->names().size(), 5u);
  EXPECT_EQ(source->files().size(), 3u);
  EXPECT_EQ(source->metadata().at("total_size"), "1200");
  for (const auto& [name, value] : arrays) {
    EXPECT_TRUE(mx::array_equal(source->load(name), value).item<bool>()) << name;
  }
}

TEST(Save, ATensorLargerThanAShardHasOneToItself) {
  const TemporaryDirectory folder;
  save_checkpoint(folder.path(), to_save(five_arrays()), 1);
  EXPECT_EQ(names_in(folder.path()).size(), 6u);
  EXPECT_EQ(open_checkpoint(folder.path())->names().size(), 5u);
}

TEST(Save, ReplacesAnEarlierSaveOfAnotherShape) {
  const TemporaryDirectory folder;
  write_file(folder / "config.json", "{}");
  write_file(folder / "model-1-of-2.safetensors", "not ours");
  save_checkpoint(folder.path(), to_save(five_arrays()), 240);
  save_checkpoint(folder.path(), to_save(five_arrays()));
  EXPECT_EQ(names_in(folder.path()),
            (std::vector<std::string>{"config.json", "model-1-of-2.safetensors", "model.safetensors"}));
  save_checkpoint(folder.path(), to_save(five_arrays()), 3 * 240);
  EXPECT_EQ(names_in(folder.path()).size(), 5u);
  EXPECT_EQ(open_checkpoint(folder.path())->files().size(), 2u);
}

TEST(Save, ReportsProgress) {
  const TemporaryDirectory folder;
  std::vector<int64_t> done;
  bool finished = false;
  save_safetensors(folder / "m.safetensors", to_save(five_arrays()), kTorchFormat, [&](const Progress& progress) {
    EXPECT_EQ(progress.total, 1200);
    done.push_back(progress.done);
    finished = progress.finished;
  });
  EXPECT_EQ(done, (std::vector<int64_t>{240, 480, 720, 960, 1200, 1200}));
  EXPECT_TRUE(finished);
}

TEST(Save, RefusesWhatCannotBeWritten) {
  const TemporaryDirectory folder;
  const fs::path path = folder / "m.safetensors";
  const mx::array one = mx::array({1.0f});
  EXPECT_THROW(save_safetensors(path, {to_save("a", one), to_save("a", one)}), UsageError);
  EXPECT_THROW(save_safetensors(path, {to_save("__metadata__", one)}), UsageError);
  EXPECT_THROW(save_safetensors(path, {to_save("\xff", one)}), UsageError);
  EXPECT_THROW(save_safetensors(path, {to_save("a", mx::astype(one, mx::complex64))}), UsageError);
  EXPECT_TRUE(contains(message_of([&] {
                         save_safetensors(path, {{"a", mx::float32, {2}, [&] { return one; }}});
                       }),
                       "tensor \"a\" was announced as float32 (2,) but is float32 (1,)"));
  EXPECT_THROW(save_safetensors(path, {{"a", mx::float32, {1}, [&]() -> mx::array { throw Error("producer"); }}}),
               Error);
  EXPECT_TRUE(names_in(folder.path()).empty());
}

TEST(Save, UnwritableFolders) {
  const TemporaryDirectory folder;
  EXPECT_TRUE(contains(message_of([&] { save_safetensors(folder / "no/m.safetensors", to_save(five_arrays())); }),
                       "no/m.safetensors: cannot be written: No such file"));
  write_file(folder / "file", "");
  EXPECT_TRUE(contains(message_of([&] { save_checkpoint(folder / "file", to_save(five_arrays())); }),
                       "the folder cannot be made"));
  save_checkpoint(folder / "new/deep", to_save(five_arrays()));
  EXPECT_EQ(names_in(folder / "new/deep"), std::vector<std::string>{"model.safetensors"});
}

TEST(Save, AReadOnlyFolder) {
  if (::geteuid() == 0) {
    GTEST_SKIP() << "root may write into any folder";
  }
  const TemporaryDirectory folder;
  fs::permissions(folder.path(), fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_TRUE(contains(message_of([&] { save_safetensors(folder / "m.safetensors", to_save(five_arrays())); }),
                       "m.safetensors: cannot be written: Permission denied"));
  fs::permissions(folder.path(), fs::perms::owner_all);
}

// A limit on the size of files fails a write half way, as a full disk does.
TEST(Save, AFailedWriteLeavesTheOldFilesAlone) {
  const TemporaryDirectory folder;
  save_checkpoint(folder.path(), to_save(five_arrays()));
  const std::string before = read_file(folder / "model.safetensors");
  const std::map<std::string, mx::array> large = {{"a", mx::zeros({1000})}, {"b", mx::zeros({100'000})}};

  const auto old_action = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit{};
  ::getrlimit(RLIMIT_FSIZE, &old_limit);
  const rlimit limit{64 << 10, old_limit.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &limit);
  const std::string single = message_of([&] { save_checkpoint(folder.path(), to_save(large)); });
  const std::string sharded = message_of([&] { save_checkpoint(folder.path(), to_save(large), 4000); });
  ::setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_action);

  EXPECT_TRUE(contains(single, "model.safetensors: cannot be written: File too large"));
  EXPECT_TRUE(contains(sharded, "model-00002-of-00002.safetensors: cannot be written: File too large"));
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"model.safetensors"});
  EXPECT_EQ(read_file(folder / "model.safetensors"), before);
}

TEST(Save, AFullDisk) {
  const TemporaryDirectory folder;
  if (::mount("tmpfs", folder.path().c_str(), "tmpfs", 0, "size=256k") != 0) {
    GTEST_SKIP() << "a small file system cannot be mounted here (needs root): " << std::strerror(errno);
  }
  const std::string message =
      message_of([&] { save_safetensors(folder / "m.safetensors", {to_save("a", mx::zeros({1'000'000}))}); });
  const bool clean = names_in(folder.path()).empty();
  ::umount(folder.path().c_str());
  EXPECT_TRUE(contains(message, "m.safetensors: cannot be written: No space left on device"));
  EXPECT_TRUE(clean);
}

}  // namespace
}  // namespace mamba::io
