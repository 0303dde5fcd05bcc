// The loss of a training step, forward and backward, as GFLOP/s of its products: one for the logits, and two for the
// gradients.
#include <benchmark/benchmark.h>
#include <mlx/mlx.h>

#include <vector>

#include "mamba/ops/linear_cross_entropy/linear_cross_entropy.h"

namespace {

namespace mx = mlx::core;

struct Arguments {
  mx::array x, weight, targets;
};

// Arguments: tokens, words, width, dtype (0 float32, 1 bfloat16).
Arguments arguments_of(const benchmark::State& state) {
  const auto tokens = static_cast<int>(state.range(0)), words = static_cast<int>(state.range(1)),
             width = static_cast<int>(state.range(2));
  const mx::Dtype dtype = state.range(3) == 0 ? mx::float32 : mx::bfloat16;
  Arguments arguments{mx::astype(mx::random::normal({1, tokens, width}), dtype),
                      mx::astype(mx::random::normal({words, width}, mx::float32, 0.0f, 0.02f), dtype),
                      mx::astype(mx::random::randint(0, words, {1, tokens}), mx::int32)};
  mx::eval(arguments.x, arguments.weight, arguments.targets);
  return arguments;
}

void count_products(benchmark::State& state, int products) {
  const double operations = 2e-9 * products * static_cast<double>(state.range(0)) *
                            static_cast<double>(state.range(1)) * static_cast<double>(state.range(2));
  state.counters["GFLOP/s"] = benchmark::Counter(operations, benchmark::Counter::kIsIterationInvariantRate);
}

void forward(benchmark::State& state) {
  const Arguments in = arguments_of(state);
  for (auto _ : state) {
    mx::array loss = mamba::ops::linear_cross_entropy(in.x, in.weight, in.targets);
    loss.eval();
  }
  count_products(state, 1);
}

void forward_and_backward(benchmark::State& state) {
  const Arguments in = arguments_of(state);
  for (auto _ : state) {
    const auto result = mamba::ops::linear_cross_entropy_gradients(in.x, in.weight, in.targets, 1.0f, true);
    mx::eval(result.losses, result.x, *result.weight);
  }
  count_products(state, 3);
}

BENCHMARK(forward)->UseRealTime()->Args({512, 50280, 768, 0})->Args({512, 50280, 768, 1})->Args({2048, 512, 256, 0});
BENCHMARK(forward_and_backward)
    ->UseRealTime()
    ->Args({512, 50280, 768, 0})
    ->Args({512, 50280, 768, 1})
    ->Args({2048, 512, 256, 0});

}  // namespace
