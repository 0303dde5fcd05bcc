// Arguments: B, L, D, N. "updates" are states times positions; bytes are those of the large arrays, each once.
// "CPU" is the time of all threads together.
#include "mamba/ops/selective_scan/selective_scan.h"

#include <benchmark/benchmark.h>
#include <mlx/transforms.h>

#include <vector>

#include "mamba/ops/cpu/test_arrays.h"

namespace mamba::ops {
namespace {

namespace mx = mlx::core;
using testing::normal;

SelectiveScanInputs inputs(int batch, int length, int channels, int states, mx::Dtype dtype) {
  mx::Shape wide = length == 0 ? mx::Shape{batch, channels} : mx::Shape{batch, length, channels};
  mx::Shape narrow = wide;
  narrow.back() = states;
  mx::array A = mx::negative(mx::broadcast_to(mx::arange(1, states + 1, mx::float32), {channels, states}));
  A = mx::contiguous(A);
  A.eval();
  return {.u = normal(wide, 1, 1.0f, 0.0f, dtype),
          .delta = normal(wide, 2, 1.0f, -3.0f, dtype),
          .A = A,
          .B = normal(narrow, 3, 1.0f, 0.0f, dtype),
          .C = normal(narrow, 4, 1.0f, 0.0f, dtype),
          .D = normal({channels}, 5),
          .z = normal(wide, 6, 1.0f, 0.0f, dtype),
          .delta_bias = normal({channels}, 7)};
}

void report(benchmark::State& state, const SelectiveScanInputs& in, int length, double arrays) {
  const double positions = static_cast<double>(state.range(0)) * length * static_cast<double>(state.range(2));
  const double rounds = static_cast<double>(state.iterations());
  state.counters["updates"] =
      benchmark::Counter(rounds * positions * static_cast<double>(state.range(3)), benchmark::Counter::kIsRate);
  state.SetBytesProcessed(static_cast<int64_t>(rounds * positions * arrays * static_cast<double>(in.u.itemsize())));
}

void bench_forward(benchmark::State& state, mx::Dtype dtype) {
  const int length = static_cast<int>(state.range(1));
  const SelectiveScanInputs in = inputs(static_cast<int>(state.range(0)), length, static_cast<int>(state.range(2)),
                                        static_cast<int>(state.range(3)), dtype);
  for (auto _ : state) {
    SelectiveScanOutputs out = selective_scan(in, mx::Device::cpu);
    mx::eval(out.y, out.state);
  }
  report(state, in, length, 4);
}

void bench_forward_backward(benchmark::State& state, mx::Dtype dtype) {
  const int length = static_cast<int>(state.range(1));
  const SelectiveScanInputs in = inputs(static_cast<int>(state.range(0)), length, static_cast<int>(state.range(2)),
                                        static_cast<int>(state.range(3)), dtype);
  const mx::array gy = normal(in.u.shape(), 9, 1.0f, 0.0f, dtype);
  const auto scan = [&](const std::vector<mx::array>& a) -> std::vector<mx::array> {
    return {selective_scan(
                {.u = a[0], .delta = a[1], .A = a[2], .B = a[3], .C = a[4], .D = a[5], .z = a[6], .delta_bias = a[7]},
                mx::Device::cpu)
                .y};
  };
  for (auto _ : state) {
    auto [y, grads] = mx::vjp(scan, {in.u, in.delta, in.A, in.B, in.C, *in.D, *in.z, *in.delta_bias}, {gy});
    grads.push_back(y[0]);
    mx::eval(grads);
  }
  report(state, in, length, 4 + 7);
}

void bench_step(benchmark::State& state, mx::Dtype dtype) {
  SelectiveScanInputs in = inputs(static_cast<int>(state.range(0)), 0, static_cast<int>(state.range(2)),
                                  static_cast<int>(state.range(3)), dtype);
  in.initial_state = normal({in.u.shape(0), in.u.shape(1), in.A.shape(1)}, 8);
  for (auto _ : state) {
    SelectiveScanOutputs out = selective_scan_step(in, mx::Device::cpu);
    mx::eval(out.y, out.state);
  }
  report(state, in, 1, 4);
}

BENCHMARK_CAPTURE(bench_forward, float32, mx::float32)
    ->Args({1, 2048, 1536, 16})
    ->Args({1, 8192, 1536, 16})
    ->Args({4, 512, 1536, 16})
    ->Args({1, 2048, 512, 8})
    ->Args({1, 2048, 5120, 32})
    ->UseRealTime()
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(bench_forward, bfloat16, mx::bfloat16)
    ->Args({1, 2048, 1536, 16})
    ->UseRealTime()
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(bench_forward_backward, float32, mx::float32)
    ->Args({1, 2048, 1536, 16})
    ->Args({1, 512, 1536, 16})
    ->UseRealTime()
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(bench_forward_backward, bfloat16, mx::bfloat16)
    ->Args({1, 2048, 1536, 16})
    ->UseRealTime()
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(bench_step, float32, mx::float32)
    ->Args({1, 1, 1536, 16})
    ->Args({1, 1, 5120, 16})
    ->Args({32, 1, 1536, 16})
    ->UseRealTime()
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace mamba::ops
