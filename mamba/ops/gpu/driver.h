// What we ask NVIDIA's driver and libraries for. MLX has them loaded; this library is not linked with them, so all of
// this does nothing where there are none.
#pragma once

#include <dlfcn.h>

#include <cstddef>

namespace mamba::ops::gpu {

// A function of theirs; null where it is not loaded.
template <typename Function>
Function* loaded(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

// As CUdevice_attribute numbers them.
enum class DeviceAttribute {
  kMultiprocessors = 16,
  kMajor = 75,  // of the compute capability
  kMinor = 76,
  kMostSharedOfAGroup = 97,  // bytes of shared memory, where a launch asks for it
};

// An attribute of the first device; 0 where it cannot be asked.
int device_attribute(DeviceAttribute which);

// Memory that host and device share lies where it was used last, page by page. A page that a kernel writes and the host
// reads in every step travels twice a step, and the kernel waits for it, 50 to 125 us on an H100. After this the pages
// of [at, at + bytes) stay with the host and the device reaches them there.
void leave_on_host(const void* at, size_t bytes);

}  // namespace mamba::ops::gpu
