#include "mamba/ops/gpu/tensor_map.h"

#include <array>
#include <cstring>

#include "mamba/ops/gpu/driver.h"

namespace mamba::ops::gpu {

namespace mx = mlx::core;

std::uintptr_t device_address(const mx::array& a) {
  // What MLX's buffers are for CUDA begins like this. Its own way to the bytes, for the host, moves them.
  struct Buffer {
    void* data;
  };
  const auto* const buffer = static_cast<const Buffer*>(a.buffer().ptr());
  return reinterpret_cast<std::uintptr_t>(buffer->data) + static_cast<std::uintptr_t>(a.offset());
}

std::vector<int32_t> tensor_map(std::uintptr_t address, const std::vector<uint64_t>& lengths,
                                const std::vector<uint64_t>& strides, const std::vector<uint32_t>& box) {
  using Encode = int(void*, int, uint32_t, void*, const uint64_t*, const uint64_t*, const uint32_t*, const uint32_t*,
                     int, int, int, int);
  static auto* const encode = loaded<Encode>("cuTensorMapEncodeTiled");
  if (encode == nullptr) {
    return {};
  }
  constexpr int kBfloat16 = 9;
  constexpr int kNotInterleaved = 0;
  constexpr int kPermutedIn128 = 3;
  constexpr int kFetch256 = 3;  // bytes at once into the second cache
  constexpr int kZeros = 0;     // behind the end
  alignas(64) std::array<int32_t, 32> map{};
  const std::vector<uint32_t> steps(box.size(), 1);
  const int error = encode(map.data(), kBfloat16, static_cast<uint32_t>(box.size()),
                           reinterpret_cast<void*>(address),  // NOLINT(performance-no-int-to-ptr)
                           lengths.data(), strides.data(), box.data(), steps.data(), kNotInterleaved, kPermutedIn128,
                           kFetch256, kZeros);
  return error == 0 ? std::vector<int32_t>(map.begin(), map.end()) : std::vector<int32_t>();
}

}  // namespace mamba::ops::gpu
