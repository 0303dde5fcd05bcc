#include "mamba/ops/gpu/upload.h"

#include <mlx/allocator.h>
#include <mlx/ops.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <mutex>
#include <optional>
#include <utility>

#include "mamba/ops/dispatch.h"
#include "mamba/ops/gpu/driver.h"

namespace mamba::ops::gpu {

namespace mx = mlx::core;

namespace {

// Memory of the host's, and what was last copied from it.
struct Slot {
  mx::array host;  // (words,) int32
  std::optional<mx::array> copy = {};

  // A copy that has not been evaluated yet may still be.
  bool is_free() const { return !copy || copy->is_available(); }
};

constexpr size_t kMostSlots = 32;
constexpr size_t kFewestWords = 1024;
constexpr size_t kMostWords = 1 << 20;  // above that a page is nothing beside the work

// Each is at most eight times as long as what lies there, so that few long ones are not taken by short ones.
Slot* slot_for(std::vector<Slot>& slots, size_t words) {
  const size_t wanted = std::bit_ceil(std::max(words, kFewestWords));
  for (Slot& slot : slots) {
    if (slot.host.size() >= wanted && slot.host.size() <= 8 * wanted && slot.is_free()) {
      return &slot;
    }
  }
  if (slots.size() >= kMostSlots) {
    return nullptr;
  }
  const size_t bytes = wanted * sizeof(int32_t);
  mx::array host(mx::allocator::malloc(bytes), {static_cast<int>(wanted)}, mx::int32);
  leave_on_host(host.data<int32_t>(), bytes);
  return &slots.emplace_back(Slot{std::move(host)});
}

mx::array upload(const void* numbers, const mx::Shape& shape, const mx::Stream& stream) {
  static std::mutex mutex;
  static auto* const slots = new std::vector<Slot>;  // for as long as something may still run
  size_t words = 1;
  for (const int axis : shape) {
    words *= static_cast<size_t>(axis);
  }
  const std::lock_guard<std::mutex> lock(mutex);
  Slot* const slot = words > 0 && words <= kMostWords ? slot_for(*slots, words) : nullptr;
  if (slot == nullptr) {
    return mx::array(static_cast<const int32_t*>(numbers), shape, mx::int32);
  }
  std::memcpy(slot->host.data<int32_t>(), numbers, words * sizeof(int32_t));
  const mx::array view(mx::allocator::Data(slot->host.buffer(), [](mx::allocator::Buffer) {}), shape, mx::int32);
  slot->copy = mx::bitwise_or(view, view, stream);
  return *slot->copy;
}

}  // namespace

mx::array uploaded(const std::vector<int32_t>& numbers, mx::Shape shape, const mx::Stream& stream) {
  return on_cpu(stream) ? mx::array(numbers.begin(), std::move(shape), mx::int32)
                        : upload(numbers.data(), shape, stream);
}

mx::array uploaded(const std::vector<float>& numbers, mx::Shape shape, const mx::Stream& stream) {
  return on_cpu(stream) ? mx::array(numbers.begin(), std::move(shape), mx::float32)
                        : mx::view(upload(numbers.data(), shape, stream), mx::float32, stream);
}

}  // namespace mamba::ops::gpu
