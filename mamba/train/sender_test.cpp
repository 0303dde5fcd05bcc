// On a CPU stream, which like a GPU's computes on its own and has memory for all that was sent.
#include "mamba/train/sender.h"

#include <gtest/gtest.h>
#include <mlx/memory.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <utility>
#include <vector>

namespace mamba::train {
namespace {

namespace mx = mlx::core;

constexpr size_t kMegabyte = size_t{1} << 20;

mx::array ones(int megabytes) {
  mx::array a = mx::contiguous(mx::ones({megabytes, 512, 512}));
  a.eval();
  return a;
}

// A new array of as many bytes.
mx::array turned(const mx::array& a) {
  return mx::contiguous(mx::transpose(a, {0, 2, 1}));
}

// Something that keeps the stream busy for a while.
void keep_busy() {
  const mx::array a = mx::contiguous(mx::ones({500, 500}));
  mx::async_eval(std::vector{mx::matmul(mx::matmul(a, a), a)});
}

Gradients with_order(std::vector<std::vector<mx::array>> order) {
  return {.loss = mx::array(0.0f), .values = {}, .state = {}, .order = std::move(order)};
}

TEST(Sender, SendsAllInOrderAndCallsEachOnce) {
  for (const int pieces : {0, 1, 2, 12}) {
    std::vector<std::vector<mx::array>> order;
    std::vector<mx::array> all;
    mx::array last = ones(1);
    for (int i = 0; i < pieces; ++i) {
      last = turned(last);
      all.push_back(last);
      order.push_back({mx::add(last, mx::array(1.0f)), last});
    }
    Gradients gradients = with_order(std::move(order));
    Sender sender;
    std::vector<int> calls;
    sender.send(gradients, {[&] { calls.push_back(1); }, [&] { calls.push_back(2); }});
    EXPECT_EQ(calls, (std::vector{1, 2}));
    EXPECT_TRUE(gradients.order.empty());
    for (const mx::array& a : all) {
      EXPECT_NE(a.status(), mx::array::Status::unscheduled);
    }
    EXPECT_TRUE(mx::all(mx::equal(last, mx::array(1.0f))).item<bool>());
  }
}

TEST(Sender, IsNoFurtherAheadThanMemoryAllows) {
  constexpr int kPieces = 12;
  Sender sender;
  // Work that nothing is kept of, each piece of which needs so many megabytes and returns one number.
  const auto run = [&](int megabytes) {
    std::vector<std::vector<mx::array>> order;
    for (int i = 0; i < kPieces; ++i) {
      order.push_back({mx::sum(turned(mx::add(mx::zeros({megabytes, 512, 512}), mx::array(1.0f))))});
    }
    return with_order(std::move(order));
  };
  Gradients large = run(4);
  keep_busy();
  const size_t before = mx::get_active_memory();
  mx::reset_peak_memory();
  sender.send(large);
  EXPECT_LT(mx::get_peak_memory() - before, 5 * 4 * kMegabyte);
  mx::synchronize();
  // What was needed is there to be ahead with smaller ones.
  Gradients small = run(1);
  keep_busy();
  sender.send_first(small);
  EXPECT_GT(small.sent, 2U);
  sender.send(small);
  EXPECT_LT(mx::get_peak_memory() - before, 5 * 4 * kMegabyte);
  mx::synchronize();
}

TEST(Sender, ReplacesArraysWithoutHavingAllTwice) {
  constexpr int kArrays = 32;
  std::vector<mx::array> arrays;
  for (int i = 0; i < kArrays; ++i) {
    arrays.push_back(ones(1));
  }
  std::vector<mx::array> replaced;
  for (mx::array& a : arrays) {
    replaced.push_back(turned(std::exchange(a, mx::array(0.0f))));
  }
  keep_busy();
  const size_t before = mx::get_active_memory();
  mx::reset_peak_memory();
  Sender sender;
  sender.replace(replaced);
  EXPECT_LT(mx::get_peak_memory() - before, 8 * kMegabyte);
  for (const mx::array& a : replaced) {
    EXPECT_TRUE(mx::all(mx::equal(a, mx::array(1.0f))).item<bool>());
  }
}

}  // namespace
}  // namespace mamba::train
