#include "mamba/train/run_folder.h"

#include <gtest/gtest.h>

#include <fstream>

#include "mamba/base/error.h"
#include "mamba/base/file.h"
#include "mamba/base/temporary_directory.h"

namespace mamba::train {
namespace {

namespace fs = std::filesystem;

void save(RunFolder& folder, int64_t step, bool is_best = false) {
  folder.save(step, is_best, [&](const fs::path& directory) { write_file(directory / "model", std::to_string(step)); });
}

TEST(RunFolder, LinksFollowTheCheckpoints) {
  const TemporaryDirectory place;
  RunFolder folder = RunFolder::create(place / "run", {{"a", 1}});
  EXPECT_FALSE(folder.last().has_value());
  save(folder, 5, true);
  save(folder, 10);
  EXPECT_EQ(folder.last(), 10);
  EXPECT_EQ(folder.best(), 5);
  EXPECT_EQ(read_file(place / "run" / "last" / "model"), "10");
  EXPECT_EQ(read_file(place / "run" / "best" / "model"), "5");
  EXPECT_EQ(folder.config()["a"], 1);
}

TEST(RunFolder, KeepsTheNewestAndTheBest) {
  const TemporaryDirectory place;
  RunFolder folder = RunFolder::create(place / "run", Json::object());
  save(folder, 9, true);
  for (const int64_t step : {10, 11, 100}) {
    save(folder, step);
  }
  folder.keep(2);
  EXPECT_EQ(folder.checkpoints(), (std::vector<int64_t>{9, 11, 100}));
  folder.keep(1);
  EXPECT_EQ(folder.checkpoints(), (std::vector<int64_t>{9, 100}));
}

TEST(RunFolder, ACopyThatFollowedLinksGoesOn) {
  const TemporaryDirectory place;
  {
    RunFolder folder = RunFolder::create(place / "run", Json::object());
    save(folder, 4, true);
    save(folder, 12);
  }
  fs::copy(place / "run", place / "copied", fs::copy_options::recursive);  // links become folders
  ASSERT_FALSE(fs::is_symlink(place / "copied" / "last"));
  RunFolder folder = RunFolder::open(place / "copied");
  EXPECT_EQ(folder.last(), 12);
  save(folder, 16, true);
  EXPECT_EQ(folder.last(), 16);
  EXPECT_EQ(folder.best(), 16);
  EXPECT_TRUE(fs::is_symlink(place / "copied" / "last"));
  fs::remove(place / "copied" / "last");  // as by a copy that leaves links out
  EXPECT_EQ(folder.last(), 16);
}

TEST(RunFolder, OpeningRemovesWhatAKilledProcessWasWriting) {
  const TemporaryDirectory place;
  { RunFolder::create(place / "run", Json::object()); }
  const fs::path run = place / "run";
  make_directories(run / "adapter");
  for (const char* name : {"report.html.77-3.tmp", "adapter/adapter_model.safetensors.12345-10.tmp", "notes.tmp"}) {
    write_file(run / name, "x");
  }
  fs::create_directory_symlink("checkpoints/step-3", run / ".unfinished-best");
  RunFolder::open(run);
  EXPECT_FALSE(fs::exists(run / "report.html.77-3.tmp"));
  EXPECT_FALSE(fs::exists(run / "adapter/adapter_model.safetensors.12345-10.tmp"));
  EXPECT_FALSE(fs::is_symlink(run / ".unfinished-best"));
  EXPECT_TRUE(fs::exists(run / "notes.tmp"));
}

TEST(RunFolder, AFailedSaveChangesNothing) {
  const TemporaryDirectory place;
  RunFolder folder = RunFolder::create(place / "run", Json::object());
  save(folder, 1);
  EXPECT_THROW(folder.save(2, true,
                           [](const fs::path& directory) {
                             write_file(directory / "model", "half");
                             throw Error("disk full");
                           }),
               Error);
  EXPECT_EQ(folder.checkpoints(), (std::vector<int64_t>{1}));
  EXPECT_EQ(folder.last(), 1);
  EXPECT_EQ(std::distance(fs::directory_iterator(place / "run" / "checkpoints"), fs::directory_iterator()), 1);
}

TEST(RunFolder, TheSameStepMayBeSavedAgain) {
  const TemporaryDirectory place;
  RunFolder folder = RunFolder::create(place / "run", Json::object());
  save(folder, 3);
  folder.save(3, false, [](const fs::path& directory) { write_file(directory / "model", "again"); });
  EXPECT_EQ(read_file(place / "run" / "last" / "model"), "again");
}

TEST(RunFolder, OpeningRemovesWhatAKilledProcessLeft) {
  const TemporaryDirectory place;
  {
    RunFolder folder = RunFolder::create(place / "run", Json::object());
    save(folder, 3);
  }
  fs::create_directories(place / "run" / "checkpoints" / ".unfinished-step-4");
  const RunFolder folder = RunFolder::open(place / "run");
  EXPECT_FALSE(fs::exists(place / "run" / "checkpoints" / ".unfinished-step-4"));
  EXPECT_EQ(folder.last(), 3);
}

TEST(RunFolder, OneProcessAtATimeAndNoRunOverAnother) {
  const TemporaryDirectory place;
  {
    const RunFolder folder = RunFolder::create(place / "run", Json::object());
    EXPECT_THROW(RunFolder::open(place / "run"), Error);
  }
  EXPECT_THROW(RunFolder::create(place / "run", Json::object()), UsageError);
  EXPECT_THROW(RunFolder::open(place / "other"), UsageError);
}

TEST(RunFolder, MetricsAreRewoundToAStepAndRidOfATornLine) {
  const TemporaryDirectory place;
  RunFolder folder = RunFolder::create(place / "run", Json::object());
  for (int64_t step = 0; step < 4; ++step) {
    folder.append_metrics({{"step", step}, {"loss", 0.5}});
  }
  std::ofstream(place / "run" / "metrics.jsonl", std::ios::app) << "{\"step\": 4, \"lo";
  const std::vector<Json> kept = folder.rewind_metrics(3);
  ASSERT_EQ(kept.size(), 3u);
  EXPECT_EQ(kept.back()["step"], 2);
  EXPECT_EQ(read_file(place / "run" / "metrics.jsonl"),
            "{\"loss\":0.5,\"step\":0}\n{\"loss\":0.5,\"step\":1}\n{\"loss\":0.5,\"step\":2}\n");
}

}  // namespace
}  // namespace mamba::train
