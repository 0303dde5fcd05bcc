// The stacks of a GPU kernel's threads on the host, and which sanitizer is there to be told of them.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

// GCC defines these itself.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__
#endif
#if __has_feature(thread_sanitizer) && !defined(__SANITIZE_THREAD__)
#define __SANITIZE_THREAD__
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace mamba::ops::gpu::host {

// Those that have ended wait for the next launch from the same thread: with the address sanitizer, mapping a new one
// for every thread of every launch takes longer than most kernels.
class Stack {
 public:
  static constexpr size_t kBytes = 256 << 10;

  Stack() {
    if (ended().empty()) {
      bytes_ = std::make_unique_for_overwrite<char[]>(kBytes);
      return;
    }
    bytes_ = std::move(ended().back());
    ended().pop_back();
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(bytes_.get(), kBytes);  // a fiber leaves from within a function
#endif
  }
  Stack(Stack&&) noexcept = default;
  Stack& operator=(Stack&&) noexcept = default;
  ~Stack() {
    if (bytes_ != nullptr && ended().size() < kMostEnded) {
      ended().push_back(std::move(bytes_));
    }
  }

  [[nodiscard]] char* begin() const {
    return bytes_.get();
  }
  [[nodiscard]] char* end() const {
    return bytes_.get() + kBytes;
  }

 private:
  static constexpr size_t kMostEnded = 1024;

  static std::vector<std::unique_ptr<char[]>>& ended() {
    static thread_local std::vector<std::unique_ptr<char[]>> all;
    return all;
  }

  std::unique_ptr<char[]> bytes_;
};

}  // namespace mamba::ops::gpu::host
