#include "mamba/train/schedule.h"

#include <gtest/gtest.h>

#include "mamba/base/error.h"

namespace mamba::train {
namespace {

TEST(Schedule, RisesInAStraightLine) {
  const Schedule s{.kind = ScheduleKind::kConstant, .peak = 2.0, .steps = 100, .warmup = 4};
  EXPECT_DOUBLE_EQ(s.learning_rate(0), 0.5);
  EXPECT_DOUBLE_EQ(s.learning_rate(3), 2.0);
  EXPECT_DOUBLE_EQ(s.learning_rate(99), 2.0);
}

TEST(Schedule, CosineFallsToTheFloor) {
  const Schedule s{.kind = ScheduleKind::kCosine, .peak = 1.0, .steps = 110, .warmup = 10, .floor = 0.1};
  EXPECT_DOUBLE_EQ(s.learning_rate(10), 1.0);
  EXPECT_NEAR(s.learning_rate(60), 0.55, 1e-12);
  EXPECT_NEAR(s.learning_rate(110), 0.1, 1e-12);
  for (int64_t step = 10; step < 110; ++step) {
    EXPECT_GT(s.learning_rate(step), s.learning_rate(step + 1));
  }
}

TEST(Schedule, WsdFallsInItsLastPart) {
  const Schedule s{
      .kind = ScheduleKind::kWsd, .peak = 1.0, .steps = 100, .warmup = 5, .floor = 0, .decay_fraction = 0.2};
  EXPECT_DOUBLE_EQ(s.learning_rate(5), 1.0);
  EXPECT_DOUBLE_EQ(s.learning_rate(80), 1.0);
  EXPECT_DOUBLE_EQ(s.learning_rate(90), 0.5);
  EXPECT_DOUBLE_EQ(s.learning_rate(99), 0.05);
}

TEST(Schedule, HoldsForRunsOfOneStepAndForWarmupsLongerThanTheRun) {
  for (const ScheduleKind kind : {ScheduleKind::kConstant, ScheduleKind::kCosine, ScheduleKind::kWsd}) {
    EXPECT_DOUBLE_EQ((Schedule{.kind = kind, .peak = 1.0, .steps = 1, .warmup = 0}.learning_rate(0)), 1.0);
    EXPECT_DOUBLE_EQ((Schedule{.kind = kind, .peak = 1.0, .steps = 3, .warmup = 10}.learning_rate(2)), 0.3);
  }
}

TEST(Schedule, KnowsItsNames) {
  EXPECT_EQ(schedule_kind("wsd"), ScheduleKind::kWsd);
  EXPECT_THROW(schedule_kind("linear"), UsageError);
}

}  // namespace
}  // namespace mamba::train
