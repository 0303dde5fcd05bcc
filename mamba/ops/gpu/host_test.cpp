#include <gtest/gtest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/gpu/test_probe.h"

namespace mamba::ops::gpu::dialect {
namespace {

namespace mx = mlx::core;
using mamba::ops::testing::normal;

TEST(HostDialect, BarriersShareWhatThreadsWrote) {
  const mx::array given = normal({3, 64}, 1);
  const mx::array got = run(
      [](const host::Launch& launch) {
        MAMBA_HOST_IN(in);
        MAMBA_HOST_OUT(out);
        MAMBA_SHARED(float, row, 64);
        const int at = MAMBA_GROUP_X * 64 + MAMBA_THREAD;
        row[MAMBA_THREAD] = float(in[at]);
        MAMBA_BARRIER();
        const float left = row[(MAMBA_THREAD + 63) % 64];
        MAMBA_BARRIER();
        row[MAMBA_THREAD] = left;
        MAMBA_BARRIER();
        out[at] = row[(MAMBA_THREAD + 63) % 64];
      },
      given);
  EXPECT_TRUE(mx::array_equal(got, mx::roll(given, 2, 1)).item<bool>());
}

TEST(HostDialect, GridBarriersShareWhatGroupsWrote) {
  const mx::array given = normal({5, 32}, 1);
  const mx::array got = run(
      [](const host::Launch& launch) {
        MAMBA_HOST_IN(in);
        MAMBA_HOST_OUT(out);
        const int at = MAMBA_GROUP_X * 32 + MAMBA_THREAD;
        out[at] = float(in[at]);
        for (int turn = 0; turn < 2; ++turn) {
          MAMBA_GRID_BARRIER(in);
          const float below = float(out[(at + 32) % 160]);
          MAMBA_GRID_BARRIER(in);
          out[at] = below;
        }
      },
      given);
  EXPECT_TRUE(mx::array_equal(got, mx::roll(given, -2, 0)).item<bool>());
}

TEST(HostDialect, GridBarriersThatAGroupMissesAreErrors) {
  const auto body = [](const host::Launch& launch) {
    MAMBA_HOST_IN(in);
    if (MAMBA_GROUP_X < 2) {
      MAMBA_GRID_BARRIER(in);
    }
  };
  EXPECT_NE(message_of([&] { run(body, normal({3, 32}, 1)); }).find("grid barrier"), std::string::npos);
}

// The last SIMD group brings each row in three pieces through two slots, which are free again when all threads of the
// other two have told so; those turn the pieces round.
TEST(HostDialect, PiecesArePassedOnThroughSlots) {
  const mx::array given = normal({3, 96}, 1);
  const mx::array got = run(
      [](const host::Launch& launch) {
        MAMBA_HOST_IN(in);
        MAMBA_HOST_OUT(out);
        MAMBA_SHARED(float, slots, 2 * 32);
        MAMBA_SHARED(MambaArrival, arrivals, 4);
        if (MAMBA_THREAD < 4) {
          mamba_begin(arrivals + MAMBA_THREAD, MAMBA_THREAD < 2 ? 1 : 64);
        }
        MAMBA_BARRIER();
        for (int piece = 0; piece < 3; ++piece) {
          const int at = MAMBA_GROUP_X * 96 + 32 * piece;
          const int slot = piece % 2;
          if (MAMBA_THREAD == 64) {
            if (piece >= 2) {
              mamba_await(arrivals + 2 + slot, 0);
            }
            mamba_expect(arrivals + slot, 32 * 4);
            mamba_bring(slots + 32 * slot, in + at, 32, arrivals + slot);
          } else if (MAMBA_THREAD < 64) {
            mamba_await(arrivals + slot, piece / 2);
            if (MAMBA_THREAD / 32 == slot) {
              out[at + MAMBA_THREAD % 32] = slots[32 * slot + 31 - MAMBA_THREAD % 32];
            }
            mamba_arrive(arrivals + 2 + slot);
          }
        }
      },
      given);
  const mx::array pieces = mx::reshape(given, {9, 32});
  const mx::array turned = mx::slice(pieces, {0, 31}, {9, -33}, {1, -1});
  EXPECT_TRUE(mx::array_equal(mx::reshape(got, {9, 32}), turned).item<bool>());
}

TEST(HostDialect, WaitingForWhatNobodyBringsIsAnError) {
  const auto body = [](const host::Launch&) {
    MAMBA_SHARED(MambaArrival, arrivals, 1);
    if (MAMBA_THREAD == 0) {
      mamba_begin(arrivals, 1);
    }
    MAMBA_BARRIER();
    mamba_await(arrivals, 0);
  };
  EXPECT_NE(message_of([&] { run(body, normal({1, 32}, 1)); }).find("waits for what nobody"), std::string::npos);
}

// Each group takes what the next one has posted.
// Groups in pairs wait for one another while they run: what a partner hands over, and counts of all groups.
TEST(HostDialect, PairsHandNumbersToOneAnother) {
  const mx::array given = normal({6, 32}, 1);
  const mx::array got = run(
      [](const host::Launch& launch) {
        MAMBA_HOST_IN(in);
        MAMBA_HOST_OUT(out);
        MAMBA_SHARED(float, row, 128);
        MAMBA_SHARED(MambaArrival, arrivals, 2);
        const int at = MAMBA_GROUP_X * 32 + MAMBA_THREAD;
        if (MAMBA_THREAD == 0) {
          mamba_begin(arrivals, 1);
          mamba_begin(arrivals + 1, 64);
        }
        MAMBA_GRID_BARRIER(in);
        const float mine = float(in[at]);
        mamba_hand4(row + 4 * MAMBA_THREAD, mine, 0.0f, mine, 0.0f, arrivals);
        if (MAMBA_THREAD == 0) {
          mamba_expect(arrivals, 32 * 16);
        }
        mamba_await(arrivals, 0);
        const float theirs = row[4 * MAMBA_THREAD] + row[4 * MAMBA_THREAD + 2];
        mamba_arrive(arrivals + 1);
        mamba_arrive_at_partner(arrivals + 1);
        mamba_await(arrivals + 1, 0);
        out[at] = theirs;
      },
      given, true);
  const mx::array swapped =
      mx::reshape(mx::take(mx::reshape(given, {3, 2, 32}), mx::array({1, 0}, mx::int32), 1), {6, 32});
  EXPECT_TRUE(mx::array_equal(got, mx::multiply(swapped, mx::array(2.0f))).item<bool>());
}

TEST(HostDialect, PairsThatWaitForEverAreErrors) {
  const auto alone = [] {
    run(
        [](const host::Launch& launch) {
          MAMBA_HOST_IN(in);
          MAMBA_SHARED(MambaArrival, arrivals, 1);
          if (MAMBA_THREAD == 0) {
            mamba_begin(arrivals, 64);
          }
          MAMBA_BARRIER();
          mamba_arrive(arrivals);
          mamba_await(arrivals, 0);
        },
        mx::zeros({2, 32}), true);
  };
  EXPECT_NE(message_of(alone).find("wait for what none of them does"), std::string::npos);
}

// What the device's own copies of boxes leave is where products look for it: 61 rows and zeros behind them, numbers 35
// to 66 of each, with 16 rows of 32.
TEST(HostDialect, BlocksOfWeightsArePlainProducts) {
  const mx::array given = normal({40, 128}, 1);
  const mx::array got = run(
      [](const host::Launch& launch) {
        MAMBA_HOST_IN(in);
        MAMBA_HOST_OUT(out);
        if (MAMBA_GROUP_X > 0) {
          return;
        }
        MAMBA_SHARED(float, wide, 64 * 64);
        MAMBA_SHARED(float, narrow, 16 * 32);
        MAMBA_SHARED(MambaArrival, arrivals, 1);
        if (MAMBA_THREAD == 0) {
          mamba_begin(arrivals, 1);
          mamba_expect(arrivals, 64 * 64 * 4);
          mamba_bring_rows<64>(wide, in, 0, in, 3, 9, 72, 70, arrivals);
        }
        for (int i = MAMBA_THREAD; i < 16 * 32; i += 128) {
          narrow[mamba_block_place(i / 32, i % 32)] = float(in[i]);
        }
        MAMBA_BARRIER();
        mamba_await(arrivals, 0);
        float sums[8] = {};
        mamba_product_of_weights(sums, wide, 1, narrow);
        const int lane = MAMBA_THREAD % 32;
        for (int i = 0; i < 8; ++i) {
          out[(MAMBA_THREAD / 32 * 16 + i / 2 % 2 * 8 + lane / 4) * 16 + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
        }
      },
      given);
  const mx::array flat = mx::reshape(given, {40 * 128});
  const mx::array rows = mx::reshape(mx::slice(flat, {0}, {70 * 72}), {70, 72});
  const mx::array left = mx::pad(mx::slice(rows, {9, 35}, {70, 67}), {{0, 3}, {0, 0}});
  const mx::array right = mx::reshape(mx::slice(flat, {0}, {512}), {16, 32});
  const mx::array want = mx::matmul(left, mx::transpose(right));
  EXPECT_TRUE(mx::allclose(mx::slice(mx::reshape(got, {40 * 128}), {0}, {1024}), mx::reshape(want, {1024}), 1e-4, 1e-4)
                  .item<bool>());
}

TEST(HostDialect, NumbersAreHandedOverOncePosted) {
  const auto body = [](const host::Launch& launch) {
    MAMBA_HOST_IN(in);
    MAMBA_HOST_OUT(out);
    const int groups = MAMBA_GROUPS_X;
    if (MAMBA_THREAD == 0) {
      mamba_post(out, MAMBA_GROUP_X, float(in[MAMBA_GROUP_X]), 7);
    }
    if (float(in[0]) > 0.0f) {
      MAMBA_ALL_POSTED();
    }
    float taken[2];
    mamba_take<float, 1>(out, 0, 0, groups, 7, taken, 0);
    check(taken[1] == float(in[1]), "took {}", taken[1]);
  };
  mx::array given = mx::ones({4, 32});
  mx::eval(given);
  run(body, given);
  given = mx::negative(given);
  mx::eval(given);
  EXPECT_NE(message_of([&] { run(body, given); }).find("nobody has posted"), std::string::npos);
}

TEST(HostDialect, MissingBarriersShow) {
  const mx::array given = mx::ones({4, 64});
  mx::eval(given);
  const mx::array got = run(
      [](const host::Launch& launch) {
        MAMBA_HOST_IN(in);
        MAMBA_HOST_OUT(out);
        MAMBA_SHARED(float, row, 64);
        const int at = MAMBA_GROUP_X * 64 + MAMBA_THREAD;
        row[MAMBA_THREAD] = float(in[at]);
        out[at] = row[63 - MAMBA_THREAD];
      },
      given);
  EXPECT_FALSE(mx::array_equal(got, given).item<bool>());
}

// kRows x 32 numbers times the transpose of 8 x 32, in each of two SIMD groups.
template <int kRows>
void multiply(const host::Launch& launch) {
  MAMBA_HOST_IN(in);
  MAMBA_HOST_OUT(out);
  const int lane = MAMBA_THREAD % 32;
  const int simd = MAMBA_THREAD / 32;
  const auto rows = in + simd * 24 * 32;
  float sums[1][1][4];
  mamba_tiles<mx::bfloat16_t, 1, 1, true, kRows == 1, false, 2>(rows, kRows, rows + 16 * 32, 8, 32, 0, 1, lane, sums);
  MAMBA_SHARED(float, stage, 2 * kRows * 8);
  mamba_stage_tiles<1, kRows>(sums[0], stage + simd * kRows * 8, lane);
  MAMBA_BARRIER();
  for (int i = lane; i < kRows * 8; i += 32) {
    out[simd * kRows * 8 + i] = stage[simd * kRows * 8 + i];
  }
}

TEST(HostDialect, TilesArePlainProducts) {
  const mx::array given = normal({2, 24 * 32}, 3);
  for (const int rows : {1, 16}) {
    mx::array got = mx::zeros({2, rows * 8});
    mx::eval(got);
    const host::Launch two{{{"in", &given}}, {{"out", &got}}, {}, {1, 1, 1}, 64};
    host::run(rows == 1 ? multiply<1> : multiply<16>, two);
    for (int simd = 0; simd < 2; ++simd) {
      const mx::array all = mx::reshape(mx::slice(given, {simd, 0}, {simd + 1, 24 * 32}), {24, 32});
      const mx::array want =
          mx::matmul(mx::slice(all, {0, 0}, {rows, 32}), mx::transpose(mx::slice(all, {16, 0}, {24, 32})));
      const mx::array mine = mx::reshape(mx::slice(got, {simd, 0}, {simd + 1, rows * 8}), {rows, 8});
      EXPECT_TRUE(mx::allclose(mine, want, 1e-5, 1e-5).item<bool>());
    }
  }
}

TEST(HostDialect, ShufflesStayInTheirSimdGroup) {
  const mx::array given = normal({1, 128}, 2);
  const mx::array got = run(
      [](const host::Launch& launch) {
        MAMBA_HOST_IN(in);
        MAMBA_HOST_OUT(out);
        const float value = float(in[MAMBA_THREAD]);
        const float swapped = MAMBA_SHUFFLE_XOR(value, 5);
        const float back = MAMBA_SHUFFLE_XOR(swapped, 5);
        out[MAMBA_THREAD] = back + MAMBA_SHUFFLE(value, 7);
      },
      given);
  for (int i = 0; i < 128; ++i) {
    EXPECT_EQ(got.data<float>()[i], given.data<float>()[i] + given.data<float>()[i / 32 * 32 + 7]);
  }
}

TEST(HostDialect, DivergenceAndStrayReadsAreErrors) {
  const mx::array given = normal({1, 64}, 3);
  const auto diverge = [](const host::Launch&) {
    if (MAMBA_THREAD < 10) {
      MAMBA_BARRIER();
    }
  };
  EXPECT_NE(message_of([&] { run(diverge, given); }).find("not reached by all threads"), std::string::npos);
  const auto half = [](const host::Launch&) {
    if (MAMBA_THREAD % 2 == 0) {
      MAMBA_SHUFFLE_XOR(1.0f, 1);
    }
  };
  EXPECT_NE(message_of([&] { run(half, given); }).find("not reached by all threads"), std::string::npos);
  const auto stray = [](const host::Launch& launch) {
    MAMBA_HOST_IN(in);
    MAMBA_HOST_OUT(out);
    out[MAMBA_THREAD] = float(in[MAMBA_THREAD + 1]);
  };
  EXPECT_NE(message_of([&] { run(stray, given); }).find("reads element 64"), std::string::npos);
  const auto greedy = [](const host::Launch&) {
    MAMBA_SHARED(float, row, 8193);
    (void)row;
  };
  EXPECT_NE(message_of([&] { run(greedy, given); }).find("shared memory"), std::string::npos);
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect
