#include "mamba/ops/cpu/amx.h"

#ifdef MAMBA_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mamba::ops {

bool cpu::has_tiles() {
#ifdef MAMBA_AMX
  static const bool has = [] {
    constexpr unsigned kBfloat16 = 1U << 22, kTiles = 1U << 24, kBytes = 1U << 25, kAll = kBfloat16 | kTiles | kBytes;
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kAll) != kAll) {
      return false;
    }
    // Linux saves tiles only for who asked for them, since they are 8 KiB a thread.
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return has;
#else
  return false;
#endif
}

}  // namespace mamba::ops
