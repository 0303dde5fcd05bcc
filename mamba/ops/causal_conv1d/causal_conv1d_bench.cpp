// Arguments: B, L, D, K. Bytes are those of x and y, each once. "CPU" is the time of all threads together.
#include "mamba/ops/causal_conv1d/causal_conv1d.h"

#include <benchmark/benchmark.h>
#include <mlx/transforms.h>

#include <vector>

#include "mamba/ops/cpu/test_arrays.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::normal;

CausalConv1dInputs inputs(const benchmark::State& state, bool step, mx::Dtype dtype) {
  const int batch = static_cast<int>(state.range(0));
  const int length = static_cast<int>(state.range(1));
  const int channels = static_cast<int>(state.range(2));
  const int taps = static_cast<int>(state.range(3));
  const mx::Shape shape = step ? mx::Shape{batch, channels} : mx::Shape{batch, length, channels};
  return {.x = normal(shape, 1, 1.0f, 0.0f, dtype),
          .weight = normal({channels, taps}, 2),
          .bias = normal({channels}, 3),
          .initial_state = normal({batch, taps - 1, channels}, 4, 1.0f, 0.0f, dtype)};
}

void report(benchmark::State& state, const CausalConv1dInputs& in) {
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * 2 * static_cast<int64_t>(in.x.nbytes()));
}

void bench_forward(benchmark::State& state, mx::Dtype dtype) {
  const CausalConv1dInputs in = inputs(state, false, dtype);
  for (auto _ : state) {
    CausalConv1dOutputs out = causal_conv1d(in, mx::Device::cpu);
    mx::eval(out.y, out.state);
  }
  report(state, in);
}

void bench_forward_backward(benchmark::State& state, mx::Dtype dtype) {
  const CausalConv1dInputs in = inputs(state, false, dtype);
  const mx::array gy = normal(in.x.shape(), 5, 1.0f, 0.0f, dtype);
  const auto conv = [&](const std::vector<mx::array>& a) -> std::vector<mx::array> {
    return {causal_conv1d({.x = a[0], .weight = a[1], .bias = a[2]}, mx::Device::cpu).y};
  };
  for (auto _ : state) {
    auto [y, grads] = mx::vjp(conv, {in.x, in.weight, *in.bias}, {gy});
    grads.push_back(y[0]);
    mx::eval(grads);
  }
  report(state, in);
}

void bench_step(benchmark::State& state, mx::Dtype dtype) {
  const CausalConv1dInputs in = inputs(state, true, dtype);
  for (auto _ : state) {
    CausalConv1dOutputs out = causal_conv1d_step(in, mx::Device::cpu);
    mx::eval(out.y, out.state);
  }
  report(state, in);
}

BENCHMARK_CAPTURE(bench_forward, float32, mx::float32)
    ->Args({1, 2048, 1536, 4})
    ->Args({4, 512, 1536, 4})
    ->Args({1, 2048, 5120, 4})
    ->UseRealTime()
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(bench_forward, bfloat16, mx::bfloat16)
    ->Args({1, 2048, 1536, 4})
    ->UseRealTime()
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(bench_forward_backward, float32, mx::float32)
    ->Args({1, 2048, 1536, 4})
    ->UseRealTime()
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(bench_step, float32, mx::float32)
    ->Args({1, 1, 1536, 4})
    ->Args({32, 1, 1536, 4})
    ->UseRealTime()
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace mamba::ops
