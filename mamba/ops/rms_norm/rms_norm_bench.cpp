// Arguments: rows, D. Bytes are those of x, residual and both outputs, each once. "CPU" is the time of all threads.
#include "mamba/ops/rms_norm/rms_norm.h"

#include <benchmark/benchmark.h>
#include <mlx/transforms.h>

#include <vector>

#include "mamba/ops/cpu/test_arrays.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::normal;

void bench_add(benchmark::State& state, mx::Dtype dtype) {
  const mx::Shape shape = {static_cast<int>(state.range(0)), static_cast<int>(state.range(1))};
  const mx::array x = normal(shape, 1, 1.0f, 0.0f, dtype);
  const mx::array residual = normal(shape, 2);
  const mx::array weight = normal({shape.back()}, 3);
  int64_t bytes = 0;
  for (auto _ : state) {
    const auto [y, sum] = rms_norm_add(x, residual, weight, 1e-5f, mx::float32, mx::Device::cpu);
    mx::eval(y, sum);
    bytes += static_cast<int64_t>(x.nbytes() + residual.nbytes() + y.nbytes() + sum.nbytes());
  }
  state.SetBytesProcessed(bytes);
}

void bench_add_backward(benchmark::State& state, mx::Dtype dtype) {
  const mx::Shape shape = {static_cast<int>(state.range(0)), static_cast<int>(state.range(1))};
  const mx::array x = normal(shape, 1, 1.0f, 0.0f, dtype);
  const mx::array residual = normal(shape, 2);
  const mx::array weight = normal({shape.back()}, 3);
  const mx::array gsum = normal(shape, 4);
  const auto norm = [](const std::vector<mx::array>& a) -> std::vector<mx::array> {
    const auto [y, sum] = rms_norm_add(a[0], a[2], a[1], 1e-5f, mx::float32, mx::Device::cpu);
    return {y, sum};
  };
  for (auto _ : state) {
    auto [y, grads] = mx::vjp(norm, {x, weight, residual}, {x, gsum});
    grads.insert(grads.end(), y.begin(), y.end());
    mx::eval(grads);
  }
}

BENCHMARK_CAPTURE(bench_add_backward, float32, mx::float32)
    ->Args({2048, 768})
    ->UseRealTime()
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(bench_add, float32, mx::float32)
    ->Args({1, 768})
    ->Args({1, 2560})
    ->Args({2048, 768})
    ->Args({2048, 2560})
    ->UseRealTime()
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(bench_add, bfloat16, mx::bfloat16)
    ->Args({1, 768})
    ->Args({2048, 768})
    ->UseRealTime()
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace mamba::ops
