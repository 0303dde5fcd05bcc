#include "mamba/train/data/windows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "mamba/base/temporary_directory.h"
#include "mamba/train/data/data_testing.h"

namespace mamba::train {
namespace {

using testing::HasSubstr;

struct Window {
  std::vector<int32_t> tokens;
  std::vector<int32_t> targets;
  std::vector<int> resets;
  int64_t target_count;
};

Window window(const Windows& windows, int64_t index) {
  const auto length = static_cast<size_t>(windows.length());
  Window out{std::vector<int32_t>(length), std::vector<int32_t>(length), {}, 0};
  std::vector<uint8_t> resets(length, 9);
  out.target_count = windows.read(index, out.tokens.data(), out.targets.data(), resets.data());
  out.resets.assign(resets.begin(), resets.end());
  return out;
}

std::shared_ptr<const Dataset> rows(const TemporaryDirectory& folder, int count, int length) {
  std::vector<uint16_t> ids(static_cast<size_t>(count * length));
  std::iota(ids.begin(), ids.end(), uint16_t{0});
  write_file(folder / "rows.npy",
             npy_bytes(fmt::format("{{'descr': '<u2', 'fortran_order': False, 'shape': ({}, {}), }}", count, length),
                       bytes_of(ids)));
  return Dataset::open({folder / "rows.npy"}, {.vocab_size = 65536});
}

TEST(Windows, DocumentsResetTheStateAndPredictNothingAcross) {
  const TemporaryDirectory folder;
  const Windows windows(rows(folder, 5, 3), 4);  // 15 tokens
  ASSERT_TRUE(windows.has_resets());
  ASSERT_EQ(windows.count(), 3);
  EXPECT_EQ(windows.statistics().unused, 3);
  Window w = window(windows, 0);
  EXPECT_EQ(w.tokens, (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(w.targets, (std::vector<int32_t>{1, 2, kIgnored, 4}));
  EXPECT_EQ(w.resets, (std::vector<int>{1, 0, 0, 1}));
  EXPECT_EQ(w.target_count, 3);
  w = window(windows, 1);
  EXPECT_EQ(w.tokens, (std::vector<int32_t>{4, 5, 6, 7}));
  EXPECT_EQ(w.targets, (std::vector<int32_t>{5, kIgnored, 7, 8}));
  EXPECT_EQ(w.resets, (std::vector<int>{0, 0, 1, 0}));
  w = window(windows, 2);  // its last token ends a document
  EXPECT_EQ(w.targets, (std::vector<int32_t>{kIgnored, 10, 11, kIgnored}));
  EXPECT_EQ(w.resets, (std::vector<int>{0, 1, 0, 0}));
  EXPECT_EQ(w.target_count, 2);
}

TEST(Windows, StreamsInSeveralFilesAreDocuments) {
  const TemporaryDirectory folder;
  write_file(folder / "a.bin", bytes_of(std::vector<uint16_t>{1, 2, 3}));
  write_file(folder / "b.npy", npy_bytes("{'descr': '<i4', 'fortran_order': False, 'shape': (4,), }",
                                         bytes_of(std::vector<int32_t>{4, 5, 6, 7})));
  const Windows windows(Dataset::open({folder / "a.bin", folder / "b.npy"}, {.vocab_size = 10}), 6);
  const Window w = window(windows, 0);
  EXPECT_EQ(w.tokens, (std::vector<int32_t>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(w.targets, (std::vector<int32_t>{2, 3, kIgnored, 5, 6, 7}));
  EXPECT_EQ(w.resets, (std::vector<int>{1, 0, 0, 1, 0, 0}));
}

TEST(Windows, TheHeldOutPartOfAStreamIsItsTail) {
  std::vector<int32_t> ids(1001);
  std::iota(ids.begin(), ids.end(), 0);
  const Windows windows(Dataset::from_tokens(ids, 1001), 10);
  const auto [training, held_out] = windows.split(0.1, 3);
  EXPECT_EQ(training.count(), 90);  // 901 tokens
  EXPECT_EQ(held_out.count(), 9);   // 100 tokens
  EXPECT_EQ(window(training, 89).targets.back(), 900);
  EXPECT_EQ(window(held_out, 0).tokens.front(), 901);
  EXPECT_THROW(training.split(0.1, 3), UsageError);
  EXPECT_EQ(windows.split(1e-9, 3).second.count(), 1);  // never less than a window
  EXPECT_THROW(windows.split(0, 3), UsageError);
  EXPECT_THROW(windows.split(1, 3), UsageError);
  EXPECT_THAT(message_of([&] { windows.split(0.999, 3); }),
              HasSubstr("what is left after the held-out part has 1 token"));
  EXPECT_THAT(message_of([] { Windows(Dataset::from_tokens(std::vector<int32_t>(15, 1), 2), 10).split(0.5, 0); }),
              HasSubstr("has 4 tokens but one window of 10 needs 11"));
}

TEST(Windows, HoldsWholeDocumentsOut) {
  const TemporaryDirectory folder;
  const Windows windows(rows(folder, 200, 7), 5);
  const auto [training, held_out] = windows.split(0.1, 3);
  EXPECT_EQ(held_out.count(), (20 * 7 - 1) / 5);
  EXPECT_EQ(training.count(), (180 * 7 - 1) / 5);
  // Every document is seen on one side, whole, and all resets stand at first tokens.
  std::vector<int> seen(200 * 7, 0);
  for (const Windows* side : {&training, &held_out}) {
    for (int64_t i = 0; i < side->count(); ++i) {
      const Window w = window(*side, i);
      for (size_t j = 0; j < w.tokens.size(); ++j) {
        ++seen[static_cast<size_t>(w.tokens[j])];
        EXPECT_EQ(w.resets[j], w.tokens[j] % 7 == 0 ? 1 : 0);
        EXPECT_EQ(w.targets[j], w.tokens[j] % 7 == 6 ? kIgnored : w.tokens[j] + 1);
      }
    }
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), (training.count() + held_out.count()) * 5);
  EXPECT_EQ(std::count(seen.begin(), seen.end(), 0), training.statistics().unused + held_out.statistics().unused);
  EXPECT_EQ(window(windows.split(0.1, 3).second, 0).tokens, window(held_out, 0).tokens);
  EXPECT_NE(window(windows.split(0.1, 4).second, 0).tokens, window(held_out, 0).tokens);
}

TEST(Windows, WhereDocumentsAreTooLongTheTailIsHeldOut) {
  const TemporaryDirectory folder;
  const Windows windows(rows(folder, 3, 100), 5);
  const auto [training, held_out] = windows.split(0.1, 3);
  EXPECT_EQ(window(held_out, 0).tokens.front(), 270);
  EXPECT_EQ(window(held_out, 0).resets, (std::vector<int>{0, 0, 0, 0, 0}));
  EXPECT_EQ(training.count(), 53);
}

}  // namespace
}  // namespace mamba::train
