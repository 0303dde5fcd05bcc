// The kernel for few rows at the shapes of mamba-130m, with GB/s of weights: codes, scales and biases. A decode step
// meets each layer's weights once, so copies are walked that no cache holds. "read" is what a plain read of the same
// memory reaches, pass by pass in turn with the products, and "share" their ratio.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "mamba/base/threads.h"
#include "mamba/ops/quantized_linear/kernel.h"

namespace {

using mamba::ops::linear_detail::Float;
using mamba::ops::linear_detail::size_of;
using mamba::ops::quantized_detail::Quantized;

using Words = std::vector<uint64_t>;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

uint64_t scale_bits(Float type) {
  return type == Float::kFloat32    ? 0x3C0000003C000000u
         : type == Float::kBfloat16 ? 0x3C003C003C003C00u
                                    : 0x2000200020002000u;
}

// Each thread sums as long a stretch of the words as the others.
void read_plainly(const Words& words) {
  const auto count = static_cast<int64_t>(words.size());
  mamba::parallel_for(
      count, (count + mamba::num_threads() - 1) / mamba::num_threads(), [&](int64_t begin, int64_t end) {
        benchmark::DoNotOptimize(std::accumulate(words.begin() + begin, words.begin() + end, uint64_t{0}));
      });
}

struct Copies {
  Quantized weight;
  int64_t count;
  Words codes;
  Words scales;
  Words biases;

  Copies(int64_t n, int64_t k, int64_t bits, Float type) {
    constexpr int64_t kBytes = 128 << 20;
    weight.type = type;
    weight.bits = bits;
    weight.n = n;
    weight.k = k;
    count = std::max<int64_t>(1, kBytes / (code_bytes() + 2 * scale_bytes()));
    std::mt19937_64 random(1);
    codes.resize(static_cast<size_t>(count * code_bytes() / 8));
    std::generate(codes.begin(), codes.end(), random);
    scales.assign(static_cast<size_t>(count * scale_bytes() / 8), scale_bits(type));
    biases = scales;
  }

  int64_t code_bytes() const { return weight.n * weight.row_bytes(); }
  int64_t scale_bytes() const { return weight.n * weight.groups() * size_of(weight.type); }
  int64_t bytes() const { return count * (code_bytes() + 2 * scale_bytes()); }

  Quantized copy(int64_t i) const {
    Quantized result = weight;
    result.codes = reinterpret_cast<const uint8_t*>(codes.data()) + i * code_bytes();
    result.scales = reinterpret_cast<const uint8_t*>(scales.data()) + i * scale_bytes();
    result.biases = reinterpret_cast<const uint8_t*>(biases.data()) + i * scale_bytes();
    return result;
  }
};

// Arguments: bits, rows of x, N, K, type of the scales (0 float32, 1 bfloat16, 2 float16), threads, type of x.
void few_rows(benchmark::State& state) {
  const int64_t rows = state.range(1), n = state.range(2), k = state.range(3);
  const auto type = static_cast<Float>(state.range(4));
  mamba::set_num_threads(static_cast<int>(state.range(5)));
  const auto x_type = static_cast<Float>(state.range(6));
  const Copies copies(n, k, state.range(0), type);
  const Words x(static_cast<size_t>(rows * k / 2), scale_bits(x_type));
  std::vector<float> y(static_cast<size_t>(rows * n));
  mamba::ops::linear_detail::Rows left{.rows = {}, .type = x_type};
  mamba::ops::linear_detail::OutRows out;
  for (int64_t row = 0; row < rows; ++row) {
    left.rows.push_back(reinterpret_cast<const uint8_t*>(x.data()) + row * k * size_of(x_type));
    out.rows.push_back(y.data() + row * n);
  }
  auto& memory = mamba::ops::linear_detail::Workspace::instance();
  memory.reserve(mamba::ops::quantized_detail::few_rows_workspace(rows, k));
  double reading = 0;
  double multiplying = 0;
  for (auto _ : state) {
    const auto product_start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < copies.count; ++i) {
      mamba::ops::quantized_detail::few_rows(left, copies.copy(i), nullptr, out, memory.data());
    }
    const double product = seconds_since(product_start);
    benchmark::DoNotOptimize(y.data());
    state.SetIterationTime(product);
    multiplying += product;
    const auto read_start = std::chrono::steady_clock::now();
    for (const Words* part : {&copies.codes, &copies.scales, &copies.biases}) {
      read_plainly(*part);
    }
    reading += seconds_since(read_start);
  }
  const double gigabytes = 1e-9 * static_cast<double>(copies.bytes()) * static_cast<double>(state.iterations());
  state.counters["GB/s"] = gigabytes / multiplying;
  state.counters["read"] = gigabytes / reading;
  state.counters["share"] = reading / multiplying;
  mamba::set_num_threads(0);
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"bits", "rows", "N", "K", "type", "threads", "x"});
  for (const int bits : {8, 4}) {
    for (const int rows : {1, 8}) {
      for (const int threads : {2, 1}) {
        // dt_proj's 48 columns are no whole group and stay floats.
        for (const auto& [n, k] : {std::pair{3072, 768}, {80, 1536}, {768, 1536}, {50280, 768}}) {
          for (const int type : {2, 1, 0}) {
            for (const int x_type : {1, 0}) {
              b->Args({bits, rows, n, k, type, threads, x_type});
            }
          }
        }
      }
    }
  }
}

BENCHMARK(few_rows)->UseManualTime()->Apply(shapes);

}  // namespace
