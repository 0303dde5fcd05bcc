#include "mamba/ops/settled/settled.h"

#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <atomic>
#include <memory>

#include "mamba/ops/cpu/test_arrays.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::same_bits;

constexpr int64_t kSlice = 5;

// Makes element i of an array i.
class Counting : public SlicedWork {
 public:
  explicit Counting(mx::array& a)
      : SlicedWork((static_cast<int64_t>(a.size()) + kSlice - 1) / kSlice),
        data_(a.data<float>()),
        count_(static_cast<int64_t>(a.size())) {}

  std::atomic<int> done{0};

 private:
  void do_slice(int64_t slice) override {
    for (int64_t i = slice * kSlice; i < std::min(count_, (slice + 1) * kSlice); ++i) {
      data_[i] = static_cast<float>(i);
    }
    ++done;
  }
  void release() override {}

  float* data_;
  int64_t count_;
};

mx::array unfinished(const mx::Shape& shape) {
  mx::array a = mx::contiguous(mx::full(shape, -1.0f));
  a.eval();
  return a;
}

mx::array finished(const mx::Shape& shape) {
  int count = 1;
  for (const int extent : shape) {
    count *= extent;
  }
  return mx::reshape(mx::arange(0, count, mx::float32), shape);
}

TEST(Settled, IsFinishedWhereverItIsRead) {
  mx::array a = unfinished({7, 3});
  const auto work = std::make_shared<Counting>(a);
  const mx::array settled_array = settled(a, work, kSlice);
  EXPECT_EQ(work->done.load(), 0);
  EXPECT_TRUE(same_bits(mx::multiply(settled_array, mx::array(2.0f)), mx::multiply(finished({7, 3}), mx::array(2.0f))));
  EXPECT_EQ(work->done.load(), work->slices());
  EXPECT_EQ(settled_array.data<float>(), a.data<float>());
}

TEST(Settled, PassesGradientsOn) {
  mx::array a = unfinished({4});
  const auto work = std::make_shared<Counting>(a);
  const auto tripled = [&](const mx::array& x) {
    return mx::sum(mx::multiply(settled(x, work, kSlice), mx::array(3.0f)));
  };
  EXPECT_TRUE(same_bits(mx::grad(tripled)(a), mx::full({4}, 3.0f)));
}

TEST(RowsAt, WaitsForItsRowsAlone) {
  mx::array a = unfinished({9, 4});
  const auto work = std::make_shared<Counting>(a);
  const mx::array table = settled(a, work, kSlice);
  const mx::array ids({7, 0, -9, 7}, {2, 2}, mx::int32);
  const mx::array rows = rows_at(table, ids);
  EXPECT_EQ(rows.shape(), (mx::Shape{2, 2, 4}));
  EXPECT_TRUE(same_bits(rows, mx::take(finished({9, 4}), ids, 0)));
  // Row 0 lies in slice 0, row 7 in 5 and 6.
  EXPECT_EQ(work->done.load(), 3);
  EXPECT_TRUE(same_bits(table, finished({9, 4})));
  EXPECT_EQ(work->done.load(), work->slices());
}

TEST(RowsAt, OfOtherTablesIsTake) {
  const mx::array table = finished({5, 3});
  const mx::array ids({4, 1}, mx::int32);
  EXPECT_TRUE(same_bits(rows_at(table, ids), mx::take(table, ids, 0)));
  EXPECT_TRUE(same_bits(rows_at(mx::add(table, table), ids), mx::take(mx::add(table, table), ids, 0)));
}

TEST(RowsAt, OutsideTheTableAreZeros) {
  mx::array a = unfinished({3, 4});
  const mx::array rows = rows_at(settled(a, std::make_shared<Counting>(a), kSlice), mx::array({3, 2, -4}, mx::int32));
  EXPECT_TRUE(same_bits(rows, mx::array({0.f, 0.f, 0.f, 0.f, 8.f, 9.f, 10.f, 11.f, 0.f, 0.f, 0.f, 0.f}, {3, 4})));
}

}  // namespace
}  // namespace mamba::ops
