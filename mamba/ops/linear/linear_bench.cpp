// The products of Mamba's layers, with GB/s of weights for few rows and GFLOP/s for many. "read" is what plain reading
// of as many bytes reaches, "peak" what fused multiply-adds in registers do: the limits to compare with.
#include <benchmark/benchmark.h>
#include <mlx/mlx.h>

#include <numeric>
#include <vector>

#include "mamba/base/threads.h"
#include "mamba/ops/linear/linear.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "mamba/ops/linear/linear_bench.cpp"
#include "mamba/ops/cpu/targets.h"
//
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mamba_bench {
namespace HWY_NAMESPACE {

// Runs chains of multiply-adds that need nothing but registers; the number of operations done.
double multiply_add_flops(int64_t repeats) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::ScalableTag<float> d;
  constexpr int kChains = 10;
  hn::Vec<decltype(d)> sums[kChains];
  MAMBA_CPU_UNROLL(10)
  for (int i = 0; i < kChains; ++i) {
    sums[i] = hn::Set(d, static_cast<float>(i));
  }
  const auto factor = hn::Set(d, 0.999f);
  const auto term = hn::Set(d, 1e-3f);
  for (int64_t r = 0; r < repeats; ++r) {
    MAMBA_CPU_UNROLL(10)
    for (int i = 0; i < kChains; ++i) {
      sums[i] = hn::MulAdd(sums[i], factor, term);
    }
  }
  for (int i = 1; i < kChains; ++i) {
    sums[0] = hn::Add(sums[0], sums[i]);
  }
  benchmark::DoNotOptimize(hn::GetLane(sums[0]));
  return 2.0 * static_cast<double>(repeats) * kChains * static_cast<double>(hn::Lanes(d));
}

}  // namespace HWY_NAMESPACE
}  // namespace mamba_bench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace mamba_bench {
HWY_EXPORT(multiply_add_flops);
double run_multiply_adds(int64_t repeats) {
  return HWY_DYNAMIC_DISPATCH(multiply_add_flops)(repeats);
}
}  // namespace mamba_bench

namespace {

namespace mx = mlx::core;

mx::array random_array(mx::Shape shape, mx::Dtype dtype) {
  mx::array a = mx::astype(mx::random::uniform(-0.5f, 0.5f, std::move(shape), mx::float32), dtype);
  mx::eval(a);
  return a;
}

mx::Dtype dtype_of(int64_t index) {
  return index == 0 ? mx::float32 : index == 1 ? mx::bfloat16 : mx::float16;
}

// Arguments: M, N, K, dtype (0 float32, 1 bfloat16, 2 float16).
void linear(benchmark::State& state) {
  const auto m = static_cast<int>(state.range(0)), n = static_cast<int>(state.range(1)),
             k = static_cast<int>(state.range(2));
  const mx::Dtype dtype = dtype_of(state.range(3));
  const mx::array x = random_array({1, m, k}, dtype);
  const mx::array weight = random_array({n, k}, dtype);
  for (auto _ : state) {
    mx::array y = mamba::ops::linear(x, weight);
    y.eval();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(weight.nbytes()));
  state.counters["GFLOP/s"] = benchmark::Counter(2e-9 * m * n * k, benchmark::Counter::kIsIterationInvariantRate);
}

void gradients(benchmark::State& state) {
  const auto m = static_cast<int>(state.range(0)), n = static_cast<int>(state.range(1)),
             k = static_cast<int>(state.range(2));
  const mx::Dtype dtype = dtype_of(state.range(3));
  const mx::array dy = random_array({1, m, n}, dtype);
  const mx::array x = random_array({1, m, k}, dtype);
  const mx::array weight = random_array({n, k}, dtype);
  const auto f = [](const std::vector<mx::array>& in) { return std::vector{mamba::ops::linear(in[0], in[1])}; };
  for (auto _ : state) {
    mx::eval(mx::vjp(f, {x, weight}, {dy}).second);
  }
  state.counters["GFLOP/s"] = benchmark::Counter(4e-9 * m * n * k, benchmark::Counter::kIsIterationInvariantRate);
}

// Argument: bytes.
void read(benchmark::State& state) {
  std::vector<uint64_t> bytes(static_cast<size_t>(state.range(0)) / 8, 1);
  for (auto _ : state) {
    mamba::parallel_for(static_cast<int64_t>(bytes.size()), 1 << 14, [&](int64_t begin, int64_t end) {
      benchmark::DoNotOptimize(std::accumulate(bytes.begin() + begin, bytes.begin() + end, uint64_t{0}));
    });
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * state.range(0));
}

void peak(benchmark::State& state) {
  constexpr int64_t kRepeats = 1000000;
  const int threads = mamba::num_threads();
  double flops = 0;
  for (auto _ : state) {
    flops = 0;
    std::vector<double> of_thread(static_cast<size_t>(threads));
    mamba::parallel_for(threads, 1, [&](int64_t begin, int64_t) {
      of_thread[static_cast<size_t>(begin)] = mamba_bench::run_multiply_adds(kRepeats);
    });
    flops = std::accumulate(of_thread.begin(), of_thread.end(), 0.0);
  }
  state.counters["GFLOP/s"] = benchmark::Counter(1e-9 * flops, benchmark::Counter::kIsIterationInvariantRate);
}

constexpr int kLayers[][2] = {{3072, 768},  {768, 1536},  {80, 1536},  {1536, 48},  {50280, 768},
                              {8192, 2048}, {2048, 4096}, {160, 4096}, {4096, 128}, {50280, 2048}};

void few_rows(benchmark::internal::Benchmark* b) {
  for (const auto& [n, k] : kLayers) {
    for (const int dtype : {0, 1}) {
      for (const int m : {1, 2, 4, 8, 16, 32}) {
        b->Args({m, n, k, dtype});
      }
    }
  }
}

void many_rows(benchmark::internal::Benchmark* b) {
  for (const auto& [n, k] : kLayers) {
    for (const int dtype : {0, 1, 2}) {
      b->Args({512, n, k, dtype});
    }
  }
}

void training(benchmark::internal::Benchmark* b) {
  for (const auto& [n, k] : {std::pair{3072, 768}, {768, 1536}, {80, 1536}, {1536, 48}}) {
    for (const int dtype : {0, 1}) {
      b->Args({512, n, k, dtype});
    }
  }
}

BENCHMARK(peak)->UseRealTime();
BENCHMARK(read)->UseRealTime()->Arg(9 << 20)->Arg(77 << 20)->Arg(154 << 20)->Arg(512 << 20);
BENCHMARK(linear)->UseRealTime()->Apply(few_rows)->Apply(many_rows);
BENCHMARK(gradients)->UseRealTime()->Apply(training);

}  // namespace

#endif
