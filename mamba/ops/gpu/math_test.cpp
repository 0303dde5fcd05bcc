// Functions that kernels share (math.h), as host C++.
#include <gtest/gtest.h>
#include <mlx/ops.h>

#include <cmath>
#include <limits>

#include "mamba/ops/cpu/test_arrays.h"
#include "mamba/ops/gpu/test_probe.h"

namespace mamba::ops::gpu::dialect {
namespace {

namespace mx = mlx::core;
using mamba::ops::testing::normal;

TEST(HostDialect, FetchedNumbersEndWithZeros) {
  const mx::array given = normal({1, 32}, 7);
  const mx::array whole = run(
      [](const host::Launch& launch) {
        MAMBA_HOST_IN(in);
        MAMBA_HOST_OUT(out);
        MambaNumbers<float, 4> numbers;
        mamba_fetch(numbers, in + MAMBA_THREAD / 4 * 4, 1, MAMBA_THREAD < 16 ? 4 : 0, true);
        out[MAMBA_THREAD] = numbers.get(MAMBA_THREAD % 4);
      },
      given);
  const mx::array apart = run(
      [](const host::Launch& launch) {
        MAMBA_HOST_IN(in);
        MAMBA_HOST_OUT(out);
        MambaNumbers<float, 4> numbers;
        mamba_fetch(numbers, in + MAMBA_THREAD / 4, 2, MAMBA_THREAD / 4 % 5, false);
        out[MAMBA_THREAD] = numbers.get(MAMBA_THREAD % 4);
      },
      given);
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(whole.data<float>()[i], i < 16 ? given.data<float>()[i] : 0.0f) << i;
    EXPECT_EQ(apart.data<float>()[i], i % 4 < i / 4 % 5 ? given.data<float>()[i / 4 + i % 4 * 2] : 0.0f) << i;
  }
}

TEST(HostDialect, SumsAreSplitAmongLanes) {
  const mx::array given = normal({1, 32}, 4);
  const mx::array got = run(
      [](const host::Launch& launch) {
        MAMBA_HOST_IN(in);
        MAMBA_HOST_OUT(out);
        const int lane = MAMBA_THREAD;
        float v[8];
        for (int i = 0; i < 8; ++i) {
          v[i] = float(in[lane]) * static_cast<float>(i + 1);
        }
        mamba_sum_and_split<8, 4>(v, lane);
        out[lane] = v[1];
      },
      given);
  for (int lane = 0; lane < 32; ++lane) {
    const float* group = given.data<float>() + lane / 4 * 4;
    const float sum = group[0] + group[1] + group[2] + group[3];
    EXPECT_NEAR(got.data<float>()[lane], sum * static_cast<float>(lane % 4 * 2 + 2), 1e-5f) << lane;
  }
}

TEST(HostDialect, SumsAreSpreadOverASimdGroup) {
  const mx::array given = normal({1, 32}, 5);
  const mx::array got = run(
      [](const host::Launch& launch) {
        MAMBA_HOST_IN(in);
        MAMBA_HOST_OUT(out);
        const int lane = MAMBA_THREAD;
        float v[4];
        for (int i = 0; i < 4; ++i) {
          v[i] = float(in[lane]) * static_cast<float>(i + 1);
        }
        // Over the 16 lanes of equal parity: their halves first, then the rest.
        for (int i = 0; i < 4; ++i) {
          v[i] += MAMBA_SHUFFLE_XOR(v[i], 16);
        }
        mamba_sum_and_spread<4, 2, 8>(v, lane);
        out[lane] = v[0] / static_cast<float>(mamba_spread_first<4, 2, 8>(lane) + 1);
      },
      given);
  for (int lane = 0; lane < 32; ++lane) {
    float sum = 0;
    for (int other = lane % 2; other < 32; other += 2) {
      sum += given.data<float>()[other];
    }
    EXPECT_NEAR(got.data<float>()[lane], sum, 1e-5f) << lane;
  }
}

TEST(HostDialect, NeighbouringLanesShareASum) {
  const mx::array given = normal({1, 32}, 6);
  const mx::array got = run(
      [](const host::Launch& launch) {
        MAMBA_HOST_IN(in);
        MAMBA_HOST_OUT(out);
        out[MAMBA_THREAD] = mamba_lane_sum<8>(float(in[MAMBA_THREAD]));
      },
      given);
  for (int lane = 0; lane < 32; ++lane) {
    float sum = 0;
    for (int other = 0; other < 8; ++other) {
      sum += given.data<float>()[lane / 8 * 8 + other];
    }
    EXPECT_NEAR(got.data<float>()[lane], sum, 1e-5f) << lane;
  }
}

TEST(HostDialect, LanesJoinTheirPowers) {
  const mx::array given = normal({1, 32}, 8, 40.0f);
  const mx::array got = run(
      [](const host::Launch& launch) {
        MAMBA_HOST_IN(in);
        MAMBA_HOST_OUT(out);
        float maximum = float(in[MAMBA_THREAD]);
        float sum = 1.0f;
        mamba_join_lanes(maximum, sum);
        out[MAMBA_THREAD] = maximum + mamba_log2(sum);
      },
      given);
  const double ln2 = std::log(2.0);
  const double want = mx::logsumexp(mx::multiply(given, mx::array(static_cast<float>(ln2)))).item<float>() / ln2;
  for (int lane = 0; lane < 32; ++lane) {
    EXPECT_NEAR(got.data<float>()[lane], want, 1e-5 * std::fabs(want)) << lane;
  }
}

TEST(Dialect, SoftplusIsExactWhereItIsTiny) {
  for (const float x : {-80.0f, -30.0f, -17.0f, -9.5f, -3.0f, -0.1f, 0.0f, 0.2f, 1.0f, 4.0f, 20.0f, 90.0f, 1e30f}) {
    const double exact = x > 0 ? x + std::log1p(std::exp(-double(x))) : std::log1p(std::exp(double(x)));
    EXPECT_NEAR(mamba_softplus(x), exact, 2e-6 * exact) << x;
  }
  EXPECT_EQ(mamba_softplus(-std::numeric_limits<float>::infinity()), 0.0f);
  EXPECT_TRUE(std::isnan(mamba_softplus(NAN)));
  EXPECT_EQ(mamba_sigmoid(-1e30f), 0.0f);
  EXPECT_EQ(mamba_sigmoid(1e30f), 1.0f);
}

// Of what is asked for, in steps of 2^-24 of it.
double steps_off(double got, double want) {
  return std::fabs(got - want) / (0x1p-24 * std::fabs(want));
}

TEST(Dialect, SoftplusIsRightToThreeSteps) {
  for (float x = -20.0f; x < 20.0f; x += 0.0137f) {
    const double exact = std::fmax(x, 0.0f) + std::log1p(std::exp(-std::fabs(double(x))));
    // The exponential's argument is rounded, which counts as much as it is large.
    EXPECT_LT(steps_off(mamba_softplus(x), exact), 3.0 + std::fabs(x)) << x;
  }
}

TEST(Dialect, GatesAreThoseOfOneAtATime) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float x : {-200.0f, -60.0f, -44.0f, -10.0f, -1.0f, -0.0f, 0.0f, 0.3f, 5.0f, 100.0f, 1e30f}) {
    for (const float y : {-infinity, -300.0f, -50.0f, -2.0f, 0.0f, 1.0f, 80.0f, infinity, NAN}) {
      float first[2] = {x, y};
      float second[2] = {y, x};
      mamba_silus<2>(first);
      mamba_silus<2>(second);
      const double want = x / (1.0 + std::exp(-double(x)));
      EXPECT_NEAR(first[0], want, 1e-6 * std::fabs(want) + 1e-15) << x << " " << y;
      EXPECT_EQ(first[0], second[1]);
    }
  }
  float bad[2] = {NAN, 1.0f};
  mamba_silus<2>(bad);
  EXPECT_TRUE(std::isnan(bad[0]));
}

TEST(Dialect, IntegersAreClamped) {
  EXPECT_EQ(mamba_clamped(-3, 0, 7), 0);
  EXPECT_EQ(mamba_clamped(5, 0, 7), 5);
  EXPECT_EQ(mamba_clamped(9, 0, 7), 7);
  EXPECT_EQ(mamba_clamped(0, 0, 0), 0);
}

}  // namespace
}  // namespace mamba::ops::gpu::dialect
