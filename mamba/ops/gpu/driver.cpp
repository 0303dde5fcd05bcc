#include "mamba/ops/gpu/driver.h"

#include <cstdint>

namespace mamba::ops::gpu {

int device_attribute(DeviceAttribute which) {
  auto* const get = loaded<int(int*, int, int)>("cuDeviceGetAttribute");
  int value = 0;
  return get != nullptr && get(&value, static_cast<int>(which), 0) == 0 ? value : 0;
}

void leave_on_host(const void* at, size_t bytes) {
  static auto* const advise = loaded<int(std::uintptr_t, size_t, int, int)>("cuMemAdvise");
  if (advise == nullptr) {
    return;
  }
  constexpr int kPreferredLocation = 3;
  constexpr int kAccessedBy = 5;
  constexpr int kHost = -1;
  constexpr int kDevice = 0;
  const auto address = reinterpret_cast<std::uintptr_t>(at);
  // An advice that is not taken costs time alone.
  advise(address, bytes, kPreferredLocation, kHost);
  advise(address, bytes, kAccessedBy, kDevice);
}

}  // namespace mamba::ops::gpu
