#include "mamba/generate/limits.h"

#include <mlx/device.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>

#include "mamba/base/memory.h"
#include "mamba/base/threads.h"
#include "mamba/ops/linear/linear.h"

namespace mamba::generate {

namespace mx = mlx::core;

namespace {

// Seconds that `work` takes when nothing is in its way: the least of at least five times and of about a third of a
// second.
double least_seconds(const std::function<void()>& work) {
  constexpr int kLeastPasses = 5;
  constexpr double kEnough = 0.3;
  work();
  double least = std::numeric_limits<double>::infinity();
  double total = 0;
  for (int pass = 0; pass < kLeastPasses || total < kEnough; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    least = std::min(least, seconds);
    total += seconds;
  }
  return least;
}

bool default_is_cpu() {
  return mx::default_device() == mx::Device(mx::Device::cpu);
}

uint64_t sum_of(const uint64_t* from, int64_t count) {
  constexpr int64_t kChains = 16;  // enough loads in flight in any vector width
  uint64_t sums[kChains] = {};
  for (int64_t i = 0; i + kChains <= count; i += kChains) {
    for (int64_t j = 0; j < kChains; ++j) {
      sums[j] += from[i + j];
    }
  }
  uint64_t total = 0;
  for (const uint64_t sum : sums) {
    total += sum;
  }
  return total;
}

}  // namespace

double measure_reading(uint64_t bytes) {
  constexpr int64_t kGrain = 1 << 15;  // 256 KB
  const auto words = static_cast<int64_t>(std::max<uint64_t>(bytes / sizeof(uint64_t), kGrain));
  const auto size = static_cast<double>(words) * sizeof(uint64_t);
  if (!default_is_cpu()) {
    const mx::array numbers = mx::ones({static_cast<int>(words / (1 << 10)), 1 << 10, 2}, mx::float32);
    mx::eval(numbers);
    return static_cast<double>(numbers.nbytes()) / least_seconds([&] { mx::eval(mx::sum(numbers)); });
  }
  const std::shared_ptr<std::byte> memory = map_memory(static_cast<size_t>(size));
  auto* const data = reinterpret_cast<uint64_t*>(memory.get());
  parallel_for(words, kGrain, [&](int64_t begin, int64_t end) {
    std::memset(data + begin, 1, static_cast<size_t>(end - begin) * sizeof(uint64_t));
  });
  std::atomic<uint64_t> sink{0};
  return size / least_seconds([&] {
           parallel_for(words, kGrain, [&](int64_t begin, int64_t end) { sink += sum_of(data + begin, end - begin); });
         });
}

double measure_arithmetic(mx::Dtype dtype) {
  const int size = default_is_cpu() ? 1536 : 8192;
  const auto random = [&] { return mx::astype(mx::random::uniform(-0.5f, 0.5f, {size, size}, mx::float32), dtype); };
  const mx::array left = random();
  const mx::array right = random();
  mx::eval({left, right});
  const double operations = 2.0 * size * size * size;
  return operations / least_seconds([&] { mx::eval(ops::linear(left, right)); });
}

}  // namespace mamba::generate
