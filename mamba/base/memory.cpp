#include "mamba/base/memory.h"

#include <sys/mman.h>
#include <sys/resource.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>

#include "mamba/base/error.h"

namespace mamba {

std::shared_ptr<std::byte> map_memory(size_t bytes) {
  const size_t room = bytes + kLargePage;
  void* const start = ::mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
  check(start != MAP_FAILED, "out of memory: {} bytes are needed", bytes);
  const size_t skipped = (kLargePage - reinterpret_cast<uintptr_t>(start) % kLargePage) % kLargePage;
  auto* const aligned = static_cast<std::byte*>(start) + skipped;
  prefer_large_pages(aligned, bytes);
  return {aligned, [start, room](std::byte*) { ::munmap(start, room); }};
}

void prefer_large_pages([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#ifdef MADV_HUGEPAGE
  if (bytes >= kLargePage) {
    ::madvise(memory, bytes, MADV_HUGEPAGE);  // a refusal changes nothing but speed
  }
#endif
}

uint64_t peak_memory_bytes() {
#ifdef __linux__
  // Linux hands ru_maxrss on through exec: a program that a large one starts begins with its parent's peak.
  if (std::ifstream status("/proc/self/status"); status) {
    constexpr std::string_view kPeak = "VmHWM:";
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with(kPeak)) {
        return std::strtoull(line.c_str() + kPeak.size(), nullptr, 10) * 1024;
      }
    }
  }
#endif
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
  return static_cast<uint64_t>(usage.ru_maxrss);
#else
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
#endif
}

void keep_freed_memory() {
#ifdef __GLIBC__
  ::mallopt(M_MMAP_MAX, 0);
  ::mallopt(M_TRIM_THRESHOLD, -1);  // never
#endif
}

}  // namespace mamba
