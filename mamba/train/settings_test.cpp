#include "mamba/train/settings.h"

#include <gtest/gtest.h>

#include "mamba/base/error.h"

namespace mamba::train {
namespace {

TEST(Settings, ReadBackAsTheyWereWritten) {
  Settings s;
  EXPECT_FALSE(Settings::from_json(s.to_json(), "config.json").plain_share);
  EXPECT_FALSE(s.batches().plain_share);
  s.plain_share = 0.0;
  s.plain_end = 0.2;
  s.steps = 1801;
  s.grad_accum = 3;
  const Settings read = Settings::from_json(s.to_json(), "config.json");
  EXPECT_EQ(read.plain_share, 0.0);
  EXPECT_EQ(read.to_json(), s.to_json());
  EXPECT_EQ(read.batches().plain_share, 0.0);
  EXPECT_EQ(read.batches().plain_from, 1441 * 3);
}

TEST(Settings, ANegativeNumberIsTheFilesFault) {
  for (const char* name : {"lr", "weight_decay", "plain_share", "plain_end"}) {
    EXPECT_THROW(Settings::from_json({{name, -0.5}}, "config.json"), ParseError) << name;
  }
}

}  // namespace
}  // namespace mamba::train
