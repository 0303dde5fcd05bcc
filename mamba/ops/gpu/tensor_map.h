// What the device's own copies of boxes of an array are told of it (pairs_cuda.h).
#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <vector>

namespace mamba::ops::gpu {

// Where an array that has been evaluated lies on the device.
std::uintptr_t device_address(const mlx::core::array& a);

// 128 bytes: an array of 16-bit floats (bfloat16) at `address` with the given lengths of axes, the innermost first, and
// bytes from one to the next of all axes but that one. Boxes of so many numbers of each axis, 64 of the innermost,
// whose lines of 16 bytes are permuted in shared memory as products want them. Empty where the driver cannot make it.
std::vector<int32_t> tensor_map(std::uintptr_t address, const std::vector<uint64_t>& lengths,
                                const std::vector<uint64_t>& strides, const std::vector<uint32_t>& box);

}  // namespace mamba::ops::gpu
