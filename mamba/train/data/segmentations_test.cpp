// Text that is cut into tokens in several ways: which part is cut as in use, and how batches choose.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <set>

#include "mamba/base/temporary_directory.h"
#include "mamba/train/data/batches.h"
#include "mamba/train/data/data_testing.h"

namespace mamba::train {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr int64_t kLength = 7;

class Segmentations : public testing::Test {
 protected:
  Segmentations() {
    std::string text;
    for (int i = 0; i < 40; ++i) {
      text += fmt::format("To be, or not to be {}, that is the question.\n", i);
    }
    write_file(folder_ / "a.txt", text);
    std::vector<int32_t> ids(100);
    std::iota(ids.begin(), ids.end(), 0);
    write_file(folder_ / "tokens.npy",
               npy_bytes("{'descr': '<i4', 'fortran_order': False, 'shape': (100,), }", bytes_of(ids)));
  }

  std::shared_ptr<const Dataset> open(const std::vector<fs::path>& paths, int segmentations) const {
    return Dataset::open(paths, {.vocab_size = 1024,
                                 .tokenizer = kTokenizer,
                                 .cache = folder_ / ".cache",
                                 .segmentations = segmentations,
                                 .bpe_dropout = 0.3});
  }
  std::shared_ptr<const Dataset> three_cuts() const { return open({folder_ / "a.txt", folder_ / "tokens.npy"}, 3); }

  TemporaryDirectory folder_;
};

TEST_F(Segmentations, TellWhatIsCutInOtherWays) {
  const auto dataset = three_cuts();
  EXPECT_EQ(dataset->varied().begin, open({folder_ / "a.txt"}, 1)->stream().size());
  EXPECT_EQ(dataset->varied().end, dataset->stream().size() - 100);
  EXPECT_EQ(open({folder_ / "a.txt"}, 1)->varied().begin, open({folder_ / "a.txt"}, 1)->varied().end);

  for (const int64_t length : {1, 7, 64, 1000}) {
    const Windows windows(dataset, length);
    const Dataset::Range varied = windows.varied();
    for (int64_t w = 0; w < windows.count(); ++w) {
      const bool shows = w * length + length >= dataset->varied().begin && w * length < dataset->varied().end;
      EXPECT_EQ(w >= varied.begin && w < varied.end, shows) << w << " of length " << length;
    }
  }
}

TEST_F(Segmentations, AShareOfEachBatchIsCutAsInUse) {
  const Windows windows(three_cuts(), kLength);
  const Dataset::Range varied = windows.varied();
  const int64_t plain = windows.count() - (varied.end - varied.begin);
  constexpr int64_t kFrom = 200;
  const Batches batches(windows, {.batch_size = 5, .seed = 3, .plain_share = 0.35, .plain_from = kFrom});
  std::vector<int64_t> of_plain;
  std::vector<int64_t> of_varied;
  for (int64_t number = 0; number < 2 * kFrom; ++number) {
    for (int64_t row = 0; row < 5; ++row) {
      const int64_t window = batches.window(number, row);
      const bool is_plain = window < varied.begin || window >= varied.end;
      EXPECT_EQ(is_plain, row < 2 || number >= kFrom) << "row " << row << " of batch " << number;
      (is_plain ? of_plain : of_varied).push_back(window);
    }
  }
  // Each kind has epochs of its own, which go on without a gap where the shares change.
  const auto is_epochs = [](const std::vector<int64_t>& order, int64_t count) {
    for (size_t at = 0; at + static_cast<size_t>(count) <= order.size(); at += static_cast<size_t>(count)) {
      const std::set<int64_t> seen(order.begin() + static_cast<ptrdiff_t>(at),
                                   order.begin() + static_cast<ptrdiff_t>(at) + count);
      EXPECT_EQ(seen.size(), static_cast<size_t>(count)) << "epoch from " << at;
    }
  };
  ASSERT_GT(of_plain.size(), 2 * static_cast<size_t>(plain));
  ASSERT_GT(of_varied.size(), static_cast<size_t>(varied.end - varied.begin));
  is_epochs(of_plain, plain);
  is_epochs(of_varied, varied.end - varied.begin);
}

TEST_F(Segmentations, SharesOfNothingAndAll) {
  const Windows windows(three_cuts(), kLength);
  const Dataset::Range varied = windows.varied();
  const auto plain_rows = [&](double share) {
    const Batches batches(windows, {.batch_size = 4, .plain_share = share});
    int rows = 0;
    for (int64_t row = 0; row < 4; ++row) {
      const int64_t window = batches.window(17, row);
      rows += window < varied.begin || window >= varied.end ? 1 : 0;
    }
    return rows;
  };
  EXPECT_EQ(plain_rows(0), 0);
  EXPECT_EQ(plain_rows(0.5), 2);
  EXPECT_EQ(plain_rows(1), 4);
}

TEST_F(Segmentations, ThereMustBeSomethingToChooseFrom) {
  EXPECT_THAT(message_of([&] {
                Batches(Windows(open({folder_ / "a.txt"}, 1), kLength), {.batch_size = 2, .plain_share = 0.5});
              }),
              HasSubstr("windows 0 show text cut in other ways"));
  const auto dataset = open({folder_ / "a.txt"}, 2);
  EXPECT_THAT(message_of([&] {
                Batches(Windows(dataset, dataset->varied().begin + 50), {.batch_size = 2, .plain_share = 0.5});
              }),
              HasSubstr("of 2 windows 2 show text cut"));
}

}  // namespace
}  // namespace mamba::train
