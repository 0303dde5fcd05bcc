#include "mamba/io/checkpoint.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include "mamba/base/file.h"
#include "mamba/base/temporary_directory.h"
#include "mamba/io/io_testing.h"
#include "mamba/io/safetensors.h"
#include "mamba/io/save.h"

namespace mamba::io {
namespace {

namespace mx = mlx::core;
namespace fs = std::filesystem;
using testing::contains;
using testing::golden;
using testing::message_of;

std::string checkpoint_error(const fs::path& path) {
  return message_of([&] { open_checkpoint(path); });
}

TEST(Checkpoint, TakesTheFirstOfTheKnownNames) {
  const TemporaryDirectory folder;
  EXPECT_EQ(checkpoint_error(folder.path()),
            folder.path().string() +
                ": holds no weights; looked for model.safetensors, model.safetensors.index.json, "
                "pytorch_model.bin, pytorch_model.bin.index.json");
  write_file(folder / "pytorch_model.bin.index.json", R"({"weight_map":{"0.bias":"part.bin"}})");
  fs::copy(golden("module_state.pt"), folder / "part.bin");
  EXPECT_EQ(open_checkpoint(folder.path())->names(), std::vector<std::string>{"0.bias"});
  fs::copy(golden("views.pt"), folder / "pytorch_model.bin");
  EXPECT_TRUE(open_checkpoint(folder.path())->has("transposed"));
  save_safetensors(folder / "part.safetensors", {to_save("a", mx::zeros({2}))});
  write_file(folder / "model.safetensors.index.json", R"({"metadata":{},"weight_map":{"a":"part.safetensors"}})");
  EXPECT_EQ(open_checkpoint(folder.path())->names(), std::vector<std::string>{"a"});
  fs::copy(golden("python.safetensors"), folder / "model.safetensors");
  EXPECT_TRUE(open_checkpoint(folder.path())->has("t.bool"));
}

TEST(Checkpoint, OneFileIsKnownByItsFirstBytes) {
  const TemporaryDirectory folder;
  fs::copy(golden("views.pt"), folder / "weights");
  EXPECT_TRUE(open_checkpoint(folder / "weights")->has("transposed"));
  EXPECT_TRUE(open_checkpoint(golden("python.safetensors"))->has("t.bool"));
  EXPECT_TRUE(contains(checkpoint_error(golden("refused_legacy.pt")), "before 1.6"));
  EXPECT_TRUE(contains(checkpoint_error(folder / "absent"), "absent: cannot be read: No such file"));
}

TEST(Checkpoint, IndexesThatLieOrLack) {
  const TemporaryDirectory folder;
  save_safetensors(folder / "a.safetensors", {to_save("w", mx::zeros({2}))});
  const auto error = [&](const std::string& index) {
    write_file(folder / "model.safetensors.index.json", index);
    return checkpoint_error(folder.path());
  };
  EXPECT_EQ(error(R"({"weight_map":{"w":"a.safetensors"}})"), "no error");
  EXPECT_TRUE(contains(error("{"), "not valid JSON"));
  EXPECT_TRUE(contains(error("[]"), "must hold a JSON object"));
  EXPECT_TRUE(contains(error("{}"), "field \"weight_map\" is missing"));
  EXPECT_TRUE(contains(error(R"({"weight_map":[]})"), "field \"weight_map\" must be an object"));
  EXPECT_TRUE(contains(error(R"({"weight_map":{}})"), "names no tensors"));
  EXPECT_TRUE(contains(error(R"({"weight_map":{"w":1}})"), "names no file for tensor \"w\""));
  EXPECT_TRUE(
      contains(error(R"({"metadata":3,"weight_map":{"w":"a.safetensors"}})"), "\"metadata\" must be an object"));
  EXPECT_TRUE(contains(error(R"({"weight_map":{"w":"b.safetensors"}})"),
                       "the file \"b.safetensors\" that the index names is missing"));
  EXPECT_TRUE(contains(error(R"({"weight_map":{"w":"a.safetensors","v":"a.safetensors"}})"),
                       "tensor \"v\" is not in \"a.safetensors\""));
  for (const char* name :
       {"", ".", "..", "../a.safetensors", "/etc/passwd", "x/a.safetensors", "x\\\\a", "a\\u0000b"}) {
    EXPECT_TRUE(contains(error(fmt::format(R"({{"weight_map":{{"w":"{}"}}}})", name)), "is not a plain file name"))
        << name;
  }
}

}  // namespace
}  // namespace mamba::io
