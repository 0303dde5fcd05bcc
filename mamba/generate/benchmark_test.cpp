#include "mamba/generate/benchmark.h"

#include <gtest/gtest.h>
#include <mlx/dtype.h>

#include "mamba/base/error.h"
#include "mamba/generate/limits.h"
#include "mamba/models/checkpoint.h"
#include "mamba/models/random_weights.h"

namespace mamba::generate {
namespace {

namespace mx = mlx::core;

models::MambaLM random_model(bool tied = true) {
  models::Config config;
  config.vocab_size = 50;
  config.d_model = 32;
  config.n_layer = 2;
  config.dt_rank = 2;
  config.tie_embeddings = tied;
  models::fill_derived(config);
  models::MambaLM model(config);
  models::load_parameters(*models::random_checkpoint(config, mx::float32), model);
  return model;
}

TEST(Benchmark, MeasuresWhatItIsAskedFor) {
  const models::MambaLM model = random_model();
  int steps = 0;
  int passes = 0;
  const Speeds both = measure_speeds(model, {.prompt_tokens = 7, .generated_tokens = 3, .sequences = 2, .repeats = 4},
                                     {.before_step = [&] { ++steps; }, .after_pass = [&] { ++passes; }});
  ASSERT_EQ(both.prompt.size(), 4u);
  ASSERT_EQ(both.generation.size(), 4u);
  EXPECT_EQ(steps, 3 * 5);  // the pass that does not count included
  EXPECT_EQ(passes, 4);
  for (const double speed : both.prompt) {
    EXPECT_GT(speed, 0);
  }
  EXPECT_TRUE(measure_speeds(model, {.prompt_tokens = 0, .generated_tokens = 2, .repeats = 1}).prompt.empty());
  EXPECT_TRUE(measure_speeds(model, {.prompt_tokens = 5, .generated_tokens = 0, .repeats = 1}).generation.empty());
  EXPECT_THROW(measure_speeds(model, {.sequences = 0}), Error);
}

TEST(Benchmark, CountsWorkByHand) {
  const models::MambaLM model = random_model();
  // A block: in_proj 32 x 128, x_proj 64 x 34, dt_proj 2 x 64, out_proj 64 x 32; the head: 32 x 50.
  const double block = 32 * 128 + 64 * 34 + 2 * 64 + 64 * 32;
  const double token = 2 * block + 32 * 50;
  // Beside them A 64 x 16, D 64, conv 64 x 5, dt's bias 64, the norm 32; the last norm 32.
  const double floats = token + 2 * (64 * 16 + 64 + 64 * 5 + 64 + 32) + 32;
  EXPECT_EQ(static_cast<double>(weight_bytes(model)), 4 * floats);
  const BenchmarkSettings settings{.prompt_tokens = 600, .generated_tokens = 10, .sequences = 3, .repeats = 1};
  EXPECT_EQ(prompt_work(model, settings).bytes, 2 * 4 * floats);  // 600 tokens are two chunks
  EXPECT_EQ(prompt_work(model, settings).operations, 2 * (1800 * 2 * block + 3 * 32 * 50));
  EXPECT_EQ(generation_work(model, settings).bytes, 10 * 4 * floats);
  EXPECT_EQ(generation_work(model, settings).operations, 2 * 10 * 3 * token);
  // Embeddings that are not the head are not read.
  EXPECT_EQ(weight_bytes(random_model(false)), weight_bytes(model));
}

TEST(Limits, AreOfTheOrderOfAnyMachine) {
  const double reading = ReadingMeter(uint64_t{32} << 20).measure();
  EXPECT_GT(reading, 1e8);
  EXPECT_LT(reading, 1e14);
  const double arithmetic = ArithmeticMeter(mx::float32).measure();
  EXPECT_GT(arithmetic, 1e8);
  EXPECT_LT(arithmetic, 1e16);
}

}  // namespace
}  // namespace mamba::generate
