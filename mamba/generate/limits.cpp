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
#include <vector>

#include "mamba/base/memory.h"
#include "mamba/base/threads.h"
#include "mamba/ops/linear/linear.h"

namespace mamba::generate {

namespace mx = mlx::core;

namespace {

// Seconds that `work` takes when nothing is in its way: the least of at least three times and of about a tenth of a
// second.
double least_seconds(const std::function<void()>& work) {
  constexpr int kLeastPasses = 3;
  constexpr double kEnough = 0.1;
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

constexpr int64_t kGrain = 1 << 15;  // words of a range, 256 KB

// Rows and columns of the matrices that a CPU multiplies.
#ifdef MAMBA_SANITIZED
constexpr int kCpuSize = 192;  // what it measures means nothing there
#else
constexpr int kCpuSize = 1536;
#endif

mx::array random_matrix(int size, mx::Dtype dtype) {
  mx::array out = mx::astype(mx::random::uniform(-0.5f, 0.5f, {size, size}, mx::float32), dtype);
  mx::eval(out);
  return out;
}

}  // namespace

ReadingMeter::ReadingMeter(uint64_t bytes)
    : bytes_(std::max<uint64_t>(bytes / sizeof(uint64_t), kGrain) * sizeof(uint64_t)) {
  if (!default_is_cpu()) {
    constexpr int kRow = 1 << 12;
    numbers_ = std::make_shared<mx::array>(mx::ones({static_cast<int>(bytes_ / (kRow * sizeof(float))), kRow}));
    mx::eval(*numbers_);
    bytes_ = numbers_->nbytes();
    return;
  }
  memory_ = map_memory(bytes_);
  parallel_for(static_cast<int64_t>(bytes_), kGrain * 8, [this](int64_t begin, int64_t end) {
    std::memset(memory_.get() + begin, 1, static_cast<size_t>(end - begin));
  });
}

double ReadingMeter::measure() const {
  if (numbers_ != nullptr) {
    constexpr int kAtOnce = 16;  // what the host waits for is then little beside them
    return kAtOnce * static_cast<double>(bytes_) / least_seconds([this] {
             std::vector<mx::array> sums;
             for (int i = 0; i < kAtOnce; ++i) {
               sums.push_back(mx::sum(*numbers_));
             }
             mx::eval(sums);
           });
  }
  const auto* const data = reinterpret_cast<const uint64_t*>(memory_.get());
  std::atomic<uint64_t> sink{0};
  return static_cast<double>(bytes_) / least_seconds([&] {
           parallel_for(static_cast<int64_t>(bytes_ / sizeof(uint64_t)), kGrain,
                        [&](int64_t begin, int64_t end) { sink += sum_of(data + begin, end - begin); });
         });
}

ArithmeticMeter::ArithmeticMeter(mx::Dtype dtype)
    : size_(default_is_cpu() ? kCpuSize : 8192),
      left_(random_matrix(size_, dtype)),
      right_(random_matrix(size_, dtype)) {}

double ArithmeticMeter::measure() const {
  const double operations = 2.0 * size_ * size_ * size_;
  return operations / least_seconds([this] { mx::eval(ops::linear(left_, right_)); });
}

}  // namespace mamba::generate
